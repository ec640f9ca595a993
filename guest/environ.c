/* SPDX-License-Identifier: MIT */
/*
 * Environments for commands, used by exec.c and login.c. The callers bound the number and size of
 * entries (LIMIT_ENV_COUNT, LIMIT_ENV_BYTES), so a linear search by key is fast enough.
 */

#include "guest/environ.h"

static char **find(const struct env *e, const char *key, size_t key_n)
{
	for (size_t i = 0; i < e->n; i++)
		if (strncmp(e->v[i], key, key_n) == 0 && e->v[i][key_n] == '=')
			return &e->v[i];
	return NULL;
}

int env_set(struct env *e, const char *entry)
{
	size_t key_n = strcspn(entry, "=");
	_cleanup_free_ char *copy = NULL;
	char **slot, **v;

	if (key_n == 0 || entry[key_n] != '=')
		return -EINVAL;
	copy = strdup(entry);
	if (!copy)
		return -ENOMEM;
	slot = find(e, entry, key_n);
	if (slot) {
		free(*slot);
		*slot = TAKE_PTR(copy);
		return 0;
	}
	v = reallocarray(e->v, e->n + 2, sizeof(*v));
	if (!v)
		return -ENOMEM;
	e->v = v;
	v[e->n++] = TAKE_PTR(copy);
	v[e->n] = NULL;
	return 0;
}

int env_set_pair(struct env *e, const char *key, const char *value)
{
	_cleanup_free_ char *entry = str_printf("%s=%s", key, value);

	return entry ? env_set(e, entry) : -ENOMEM;
}

int env_merge(struct env *e, char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int r = env_set(e, v[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

void env_unset(struct env *e, const char *key)
{
	char **slot = find(e, key, strlen(key));

	if (!slot)
		return;
	free(*slot);
	*slot = e->v[--e->n];
	e->v[e->n] = NULL;
}

const char *env_get(const struct env *e, const char *key)
{
	char **slot = find(e, key, strlen(key));

	return slot ? *slot + strlen(key) + 1 : NULL;
}

void env_done(struct env *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->v[i]);
	free(e->v);
	*e = (struct env){ 0 };
}
