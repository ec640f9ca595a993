/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A parameter as it is written on the command line: the names of its flag, or its placeholder.
 */

#include <stdbool.h>
#include <stddef.h>

struct api_field;
struct verb;

/* Writes a field's flag names to ret: "--mem-mib", "-m", ... for index 0, 1, ...; false when there
 * are no more, or the field is not a flag. */
#define FLAG_NAME_MAX 64
bool field_flag(const struct api_field *f, size_t index, char ret[FLAG_NAME_MAX]);
/* Writes a positional field's name for help texts: "VM_ID". */
void field_metavar(const struct api_field *f, char ret[FLAG_NAME_MAX]);
bool field_takes_value(const struct api_field *f);

/* Returns what the verb takes: flags and positional words. */
const struct api_field *verb_fields(const struct verb *v);
