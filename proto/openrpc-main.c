/* SPDX-License-Identifier: MIT */
/*
 * Prints the interface table as an OpenRPC document, installed as openrpc.json, so that a client
 * can be written or generated without a daemon. Run by the build only.
 */

#include "proto/api.h"
#include "proto/json.h"

int main(void)
{
	_cleanup_json_ json_object *o = NULL;
	if (api_openrpc(&o) < 0)
		return EXIT_FAILURE;
	const char *text = json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
	return text && puts(text) >= 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
