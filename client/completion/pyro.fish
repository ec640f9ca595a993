# SPDX-License-Identifier: MIT
# Completion of `pyro` for fish: the command itself knows what may follow.
function __pyro_complete
    set -l words (commandline -opc) (commandline -ct)
    pyro __complete $words[2..-1] 2>/dev/null
end
complete -c pyro -f -a '(__pyro_complete)'
