# SPDX-License-Identifier: MIT
# Completion of `pyro` for bash: the command itself knows what may follow.
_pyro()
{
	local cur prev words cword
	_init_completion -n := 2>/dev/null || { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; }
	mapfile -t COMPREPLY < <(pyro __complete "${words[@]:1:cword}" 2>/dev/null)
	if declare -F __ltrim_colon_completions >/dev/null; then
		__ltrim_colon_completions "$cur"
	fi
}
complete -o default -F _pyro pyro
