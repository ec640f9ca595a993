/* SPDX-License-Identifier: MIT */
/*
 * Lists the installed packages of an environment's dpkg database, for `pyro env inspect`. Called by
 * import-write.c when the tree is complete. Must stay true: the file comes from the image and is
 * hostile: its size is bounded, and lines that dpkg would not write are skipped.
 */
#include "daemon/import/import.h"

#define STATUS_PATH "var/lib/dpkg/status"
#define STATUS_MAX  (32 * 1024 * 1024)
#define FIELD_MAX   256
#define LIST_MAX    (IMPORT_LINE_BYTES / 4 * 3) /* leaves space for the rest of the result */
#define NAMES_MAX   (IMPORT_LINE_VALUES / 4 * 3)

struct stanza {
	char name[FIELD_MAX], version[FIELD_MAX];
	bool installed;
};

static int read_status(struct image *im, char **ret)
{
	uint32_t node;
	int r = tree_find(im->tree, STATUS_PATH, &node);
	if (r < 0)
		return r;
	const struct tree_node *n = tree_node(im->tree, node);
	if (!S_ISREG(n->mode) || n->size > STATUS_MAX)
		return -ENOENT;
	if (n->size > 0 && (n->n_segments != 1 || n->segments[0].first != 0 ||
				   (uint64_t)n->segments[0].count * TREE_BLOCK < n->size))
		return -ENOENT; /* with holes: not written by dpkg */
	_cleanup_free_ char *text = malloc(n->size + 1);
	if (!text)
		return -ENOMEM;
	for (uint64_t done = 0; done < n->size;) {
		ssize_t k =
			pread(im->spool_fd, text + done, n->size - done, (off_t)(n->spool + done));
		if (k <= 0)
			return k < 0 ? -errno : -EIO;
		done += k;
	}
	text[n->size] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

static void take_field(const char *line, const char *key, char ret[FIELD_MAX])
{
	size_t n = strlen(key);
	if (strncmp(line, key, n) != 0 || strlen(line + n) >= FIELD_MAX)
		return;
	for (const char *p = line + n; *p; p++)
		if (*p <= ' ' || *p > '~')
			return;
	memcpy(ret, line + n, strlen(line + n) + 1);
}

/* Adds "name=version" while there is space: the result is one line of bounded length. */
static int end_stanza(struct stanza *s, json_object *list, size_t *room)
{
	char text[2 * FIELD_MAX];
	int n = snprintf(text, sizeof(text), "%s=%s", s->name, s->version), r = 0;
	if (s->installed && s->name[0] && (size_t)n + 3 <= *room &&
		json_object_array_length(list) < NAMES_MAX) {
		json_object *o = json_object_new_string(text);
		*room -= n + 3;
		if (!o || json_object_array_add(list, o) < 0) {
			json_object_put(o);
			r = -ENOMEM;
		}
	}
	*s = (struct stanza){ 0 };
	return r;
}

static int parse_status(char *text, json_object *list)
{
	struct stanza s = { 0 };
	size_t room = LIST_MAX;
	char *line;
	while ((line = strsep(&text, "\n"))) {
		if (line[0] == '\0') {
			int r = end_stanza(&s, list, &room);
			if (r < 0)
				return r;
		}
		take_field(line, "Package: ", s.name);
		take_field(line, "Version: ", s.version);
		if (streq(line, "Status: install ok installed"))
			s.installed = true;
	}
	return end_stanza(&s, list, &room);
}

int image_packages(struct image *im, json_object **ret, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ json_object *list = json_object_new_array();
	int r = list ? read_status(im, &text) : -ENOMEM;
	if (r >= 0)
		r = parse_status(text, list);
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
		r = 0; /* not a Debian tree */
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r, NULL,
			"cannot read the list of installed packages");
	*ret = TAKE_PTR(list);
	return 0;
}
