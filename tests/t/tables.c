/* SPDX-License-Identifier: MIT */
/*
 * Prints the programs' tables for the black-box tests: `tables keys|methods|errors|words|flags`,
 * one row per line, fields divided by tabs. It links the tables themselves, including static ones,
 * so no test has to parse C.
 */
#include <inttypes.h>

#include "client/foreign.c"
#include "daemon/config.c"
#include "proto/api.h"

static void print_keys(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		printf("%s\t%d\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\n", keys[i].name,
			keys[i].type == KEY_INT, keys[i].min, keys[i].max, keys[i].dflt);
}

static void print_methods(void)
{
#define API_METHOD(symbol, name, object, right, life, hints, help) \
	printf("%s\t%s\t%s\t%s\t%s\t%s\n", name, #object, #right, #life, #hints, help);
#include "proto/api.def"
#undef API_METHOD
}

static void print_errors(void)
{
	for (int i = 0; i < ERROR_MAX; i++)
		printf("%s\n", error_code_name((enum error_code)i));
}

/* Words of other tools, which the CLI translates or explains. */
static void print_words(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_words); i++)
		printf("%s\n", foreign_words[i].words);
}

static void print_flags(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_flags); i++)
		if (foreign_flags[i].cause)
			printf("%s\t%d\n", foreign_flags[i].name, foreign_flags[i].takes_value);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*print)(void);
	} tables[] = {
		{ "keys", print_keys },
		{ "methods", print_methods },
		{ "errors", print_errors },
		{ "words", print_words },
		{ "flags", print_flags },
	};

	for (size_t i = 0; argc == 2 && i < ARRAY_SIZE(tables); i++)
		if (streq(argv[1], tables[i].name)) {
			tables[i].print();
			return fflush(stdout) != 0;
		}
	return 2;
}
