/* SPDX-License-Identifier: MIT */
#pragma once

/* The parameters of a command, for the handlers of vm.run, vm.exec and workspace.exec. */

#include "daemon/core/command.h"
#include "daemon/rpc/call.h"

/*
 * Fills in the command that the call's parameters describe. Strings are borrowed from the call; the
 * variables are in *ret_env, which the caller owns (_cleanup_strv_) and which must outlive *ret.
 */
int command_params_of(
	struct call *c, struct command_params *ret, char ***ret_env, struct error *err);

void strv_freep(char ***l);
#define _cleanup_strv_ _cleanup_(strv_freep)
