/* SPDX-License-Identifier: MIT */
/*
 * Runs the strict scanner for tests/t/test_json_differential.py: reads {u32 little-endian length,
 * text} records from stdin and prints a line for each: "yes " and the value as json-c writes it, or
 * "no " and the reason.
 */

#include <stdio.h>

#include "proto/json.h"

/* False at the end of the input. */
static bool read_text(char **ret, size_t *ret_n)
{
	uint8_t head[4];

	if (fread(head, 1, sizeof(head), stdin) != sizeof(head))
		return false;
	size_t n = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 |
		   (size_t)head[3] << 24;
	/* An allocation of exactly its size, so that a sanitizer sees a byte out of bounds. */
	char *text = malloc(n ? n : 1);
	if (!text || fread(text, 1, n, stdin) != n)
		exit(EXIT_FAILURE);
	*ret = text;
	*ret_n = n;
	return true;
}

int main(void)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;

	for (; read_text(&text, &n); free(TAKE_PTR(text))) {
		_cleanup_error_ struct error err = ERROR_INIT;
		_cleanup_json_ json_object *o = NULL;

		if (json_parse(text, n, &json_limits_request, &o, &err) < 0)
			printf("no %s\n", err.message);
		else
			printf("yes %s\n",
				json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	}
	return ferror(stdin) || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
