/* SPDX-License-Identifier: MIT */
/*
 * The merged path tree. Owns all nodes, names and their strings; filled by the tar reader and
 * listed by the ext4 writer.
 *
 * Must stay true: every name and path is bounded before it is stored; no path outside the root can
 * be named; the parents of an entry are resolved inside the root with at most TREE_FOLLOW_MAX
 * symbolic links; a directory has exactly one name, so `parent` is unique. Names are in one
 * open-addressing hash table keyed by (parent, name), with a random multiplier, so that the cost
 * per name does not depend on the size of a directory.
 */
#include "daemon/import/tree.h"
#include "proto/limits.h"

#define TREE_FOLLOW_MAX 40
#define ARENA_CHUNK     (256 * 1024)
#define SLOT_EMPTY      UINT32_MAX

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size;
	_Alignas(16) char bytes[];
};

struct tree {
	struct tree_node *nodes; /* owned */
	uint32_t n_nodes, cap_nodes;
	struct tree_entry *entries; /* owned */
	uint32_t n_entries, cap_entries;
	uint32_t *slots;  /* owned; entry numbers or SLOT_EMPTY; removed entries keep their slot */
	uint32_t n_slots; /* a power of two, > 2 * n_entries */
	uint64_t key;
	struct arena_chunk *arena; /* owned */
	uint64_t arena_total;      /* with the segments */
	uint64_t walked;           /* bytes of all paths and links that were followed */
};

/* The rest of a path to walk; the target of a symbolic link is inserted in front. */
struct walk {
	char rest[2 * LIMIT_IMAGE_PATH + 2];
	char *p;
	unsigned followed;
};

static void *arena_alloc(struct tree *t, size_t n)
{
	n = (n + 15) & ~(size_t)15;
	if (t->arena_total + n > TREE_ARENA_MAX)
		return NULL;
	if (!t->arena || t->arena->size - t->arena->used < n) {
		size_t size = MAX_OF(n, (size_t)ARENA_CHUNK);
		struct arena_chunk *c = malloc(sizeof(*c) + size);
		if (!c)
			return NULL;
		c->next = t->arena;
		c->used = 0;
		c->size = size;
		t->arena = c;
	}
	void *p = t->arena->bytes + t->arena->used;
	t->arena->used += n;
	t->arena_total += n;
	return p;
}

static char *arena_string(struct tree *t, const char *s, size_t n)
{
	char *p = arena_alloc(t, n + 1);
	if (!p)
		return NULL;
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

static int refuse(struct error *err, const char *path, const char *cause)
{
	return error_set(err, ERROR_SEED_REFUSED, cause, "leave this entry out of the archive",
		"the archive's entry \"%s\" is refused", path);
}

/* Refuses an entry for the -errno of a lower function. */
static int refuse_errno(struct error *err, const char *path, int r)
{
	switch (r) {
	case -ENOMEM:
		return error_set(err, ERROR_NO_MEMORY, "too many or too long names",
			"leave some of its files out of the archive",
			"no memory for the archive's entry \"%s\"", path);
	case -ELOOP: return refuse(err, path, "more than 40 symbolic links on its path");
	case -ENOTDIR: return refuse(err, path, "a part of its path is not a directory");
	case -ENAMETOOLONG: return refuse(err, path, "its path or a name in it is too long");
	case -EXDEV: return refuse(err, path, "it lies outside the archive's root");
	case -EMFILE: return refuse(err, path, "the archive has too many entries");
	case -E2BIG: return refuse(err, path, "the archive's links take too long to follow");
	case -ENOENT: return refuse(err, path, "a part of its path does not exist");
	default: return error_set_errno(err, ERROR_PULL_FAILED, r, NULL, "cannot add \"%s\"", path);
	}
}

static int new_node(struct tree *t, uint32_t mode, uint32_t *ret)
{
	if (t->n_nodes >= LIMIT_IMAGE_ENTRIES)
		return -EMFILE;
	if (t->n_nodes == t->cap_nodes) {
		uint32_t cap = t->cap_nodes ? t->cap_nodes * 2 : 1024;
		struct tree_node *p = reallocarray(t->nodes, cap, sizeof(*p));
		if (!p)
			return -ENOMEM;
		t->nodes = p;
		t->cap_nodes = cap;
	}
	t->nodes[t->n_nodes] = (struct tree_node){ .mode = mode, .parent = TREE_NONE };
	*ret = t->n_nodes++;
	return 0;
}

int tree_new(struct tree **ret)
{
	_cleanup_(tree_freep) struct tree *t = calloc(1, sizeof(*t));
	uint32_t root;
	if (!t)
		return -ENOMEM;
	random_bytes(&t->key, sizeof(t->key));
	t->key |= 1;
	t->n_slots = 4096;
	t->slots = malloc(t->n_slots * sizeof(*t->slots));
	if (!t->slots)
		return -ENOMEM;
	memset(t->slots, 0xff, t->n_slots * sizeof(*t->slots));
	int r = new_node(t, S_IFDIR | 0755, &root);
	if (r < 0)
		return r;
	t->nodes[root].parent = root;
	t->nodes[root].nlink = 1;
	*ret = TAKE_PTR(t);
	return 0;
}

struct tree *tree_free(struct tree *t)
{
	if (!t)
		return NULL;
	for (uint32_t i = 0; i < t->n_nodes; i++)
		free(t->nodes[i].segments);
	while (t->arena) {
		struct arena_chunk *c = t->arena;
		t->arena = c->next;
		free(c);
	}
	free(t->nodes);
	free(t->entries);
	free(t->slots);
	free(t);
	return NULL;
}

struct tree_node *tree_node(struct tree *t, uint32_t node)
{
	return &t->nodes[node];
}

uint32_t tree_n_nodes(const struct tree *t)
{
	return t->n_nodes;
}

static uint32_t hash_name(const struct tree *t, uint32_t parent, const char *name, size_t n)
{
	uint64_t h = (t->key ^ parent) * UINT64_C(0x9e3779b97f4a7c15);
	for (size_t i = 0; i < n; i++) {
		h = (h ^ (uint8_t)name[i]) * t->key;
		h ^= h >> 29;
	}
	h *= UINT64_C(0xff51afd7ed558ccd);
	return (uint32_t)(h >> 32);
}

/* Returns the slot of a name, or the empty slot for it. */
static uint32_t find_slot(const struct tree *t, uint32_t parent, const char *name, size_t n)
{
	uint32_t mask = t->n_slots - 1;
	for (uint32_t i = hash_name(t, parent, name, n) & mask;; i = (i + 1) & mask) {
		if (t->slots[i] == SLOT_EMPTY)
			return i;
		const struct tree_entry *e = &t->entries[t->slots[i]];
		if (e->parent == parent && e->n_name == n && memcmp(e->name, name, n) == 0)
			return i;
	}
}

static struct tree_entry *find_entry(
	const struct tree *t, uint32_t parent, const char *name, size_t n)
{
	uint32_t slot = t->slots[find_slot(t, parent, name, n)];
	return slot == SLOT_EMPTY || t->entries[slot].node == TREE_NONE ? NULL : &t->entries[slot];
}

static int grow_entries(struct tree *t)
{
	if (t->n_entries >= LIMIT_IMAGE_ENTRIES)
		return -EMFILE;
	if (t->n_entries == t->cap_entries) {
		uint32_t cap = t->cap_entries ? t->cap_entries * 2 : 1024;
		struct tree_entry *p = reallocarray(t->entries, cap, sizeof(*p));
		if (!p)
			return -ENOMEM;
		t->entries = p;
		t->cap_entries = cap;
	}
	if (t->n_entries + 1 <= t->n_slots / 2)
		return 0;
	uint32_t n = t->n_slots * 2, *slots = reallocarray(NULL, n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, n * sizeof(*slots));
	free(t->slots);
	t->slots = slots;
	t->n_slots = n;
	for (uint32_t i = 0; i < t->n_entries; i++) {
		const struct tree_entry *e = &t->entries[i];
		t->slots[find_slot(t, e->parent, e->name, e->n_name)] = i;
	}
	return 0;
}

/* Binds an unused name to a node. */
static int bind_name(struct tree *t, uint32_t parent, const char *name, size_t n, uint32_t node)
{
	uint32_t slot = find_slot(t, parent, name, n);
	if (t->slots[slot] == SLOT_EMPTY) {
		int r = grow_entries(t);
		if (r < 0)
			return r;
		char *copy = arena_string(t, name, n);
		if (!copy)
			return -ENOMEM;
		slot = find_slot(t, parent, name, n);
		t->slots[slot] = t->n_entries;
		t->entries[t->n_entries++] = (struct tree_entry){
			.parent = parent, .node = TREE_NONE, .n_name = n, .name = copy
		};
	}
	t->entries[t->slots[slot]].node = node;
	t->nodes[node].nlink++;
	t->nodes[parent].n_children++;
	if (S_ISDIR(t->nodes[node].mode))
		t->nodes[node].parent = parent;
	return 0;
}

static void unbind(struct tree *t, struct tree_entry *e)
{
	struct tree_node *node = &t->nodes[e->node];
	t->nodes[e->parent].n_children--;
	e->node = TREE_NONE;
	if (--node->nlink > 0)
		return;
	free(node->segments);
	node->segments = NULL;
	node->n_segments = node->cap_segments = 0;
}

/* Inserts text in front of the rest of the path. */
static int walk_push(struct walk *w, const char *text)
{
	size_t n = strlen(text);
	if ((size_t)(w->p - w->rest) < n + 1)
		return -ENAMETOOLONG;
	*--w->p = '/';
	w->p -= n;
	memcpy(w->p, text, n);
	return 0;
}

static int walk_init(struct walk *w, const char *path)
{
	size_t n = strlen(path);
	if (n > LIMIT_IMAGE_PATH)
		return -ENAMETOOLONG;
	w->followed = 0;
	w->p = w->rest + sizeof(w->rest) - 1 - n;
	memcpy(w->p, path, n + 1);
	return 0;
}

/* Returns the next component, NULL at the end; skips "/" and ".". */
static const char *walk_next(struct walk *w, size_t *ret_n)
{
	for (;;) {
		w->p += strspn(w->p, "/");
		size_t n = strcspn(w->p, "/");
		const char *name = w->p;
		if (n == 0)
			return NULL;
		w->p += n;
		if (n == 1 && name[0] == '.')
			continue;
		*ret_n = n;
		return name;
	}
}

static bool walk_at_end(const struct walk *w)
{
	const char *p = w->p;
	for (;;) {
		p += strspn(p, "/");
		if (p[0] == '.' && (p[1] == '/' || p[1] == '\0'))
			p++;
		else
			return *p == '\0';
	}
}

static unsigned depth_of(const struct tree *t, uint32_t node)
{
	unsigned depth = 0;
	for (; node != TREE_ROOT; node = t->nodes[node].parent)
		depth++;
	return depth;
}

static int make_parent(struct tree *t, uint32_t dir, const char *name, size_t n, uint32_t *ret)
{
	if (depth_of(t, dir) + 1 >= LIMIT_IMAGE_DEPTH)
		return -ENAMETOOLONG;
	int r = new_node(t, S_IFDIR | 0755, ret);
	return r < 0 ? r : bind_name(t, dir, name, n, *ret);
}

/* Walks one component that is not the last: *dir becomes the directory that it names. */
static int step(
	struct tree *t, struct walk *w, uint32_t *dir, const char *name, size_t n, bool make)
{
	if (n == 2 && memcmp(name, "..", 2) == 0) {
		*dir = t->nodes[*dir].parent;
		return 0;
	}
	if (n > LIMIT_IMAGE_NAME)
		return -ENAMETOOLONG;
	const struct tree_entry *e = find_entry(t, *dir, name, n);
	if (!e)
		return make ? make_parent(t, *dir, name, n, dir) : -ENOENT;
	const struct tree_node *node = &t->nodes[e->node];
	if (S_ISDIR(node->mode)) {
		*dir = e->node;
		return 0;
	}
	if (!S_ISLNK(node->mode) || !node->target)
		return -ENOTDIR;
	if (++w->followed > TREE_FOLLOW_MAX)
		return -ELOOP;
	if (node->target[0] == '/')
		*dir = TREE_ROOT;
	t->walked += node->size;
	return t->walked > LIMIT_IMAGE_WALK ? -E2BIG : walk_push(w, node->target);
}

/*
 * Finds the directory of path's last component, inside the root. *ret_name is empty for the root
 * itself. The path of an entry must not contain ".."; a link's target may, and ".." stops at the
 * root as in a chroot.
 */
static int resolve(struct tree *t, const char *path, bool make, uint32_t *ret_dir,
	char ret_name[LIMIT_IMAGE_NAME + 1])
{
	struct walk w;
	uint32_t dir = TREE_ROOT;
	size_t n = 0;
	int r = walk_init(&w, path);
	if (r < 0)
		return r;
	t->walked += strlen(path);
	if (t->walked > LIMIT_IMAGE_WALK)
		return -E2BIG;
	ret_name[0] = '\0';
	for (;;) {
		const char *name = walk_next(&w, &n);
		if (!name)
			break;
		if (w.followed == 0 && n == 2 && memcmp(name, "..", 2) == 0)
			return -EXDEV;
		if (!walk_at_end(&w)) {
			r = step(t, &w, &dir, name, n, make);
			if (r < 0)
				return r;
			continue;
		}
		if (n > LIMIT_IMAGE_NAME)
			return -ENAMETOOLONG;
		if (n == 2 && memcmp(name, "..", 2) == 0)
			return -EXDEV;
		memcpy(ret_name, name, n);
		ret_name[n] = '\0';
	}
	*ret_dir = dir;
	return 0;
}

static bool has_dotdot(const char *path)
{
	while (*path) {
		path += strspn(path, "/");
		size_t n = strcspn(path, "/");
		if (n == 2 && memcmp(path, "..", 2) == 0)
			return true;
		path += n;
	}
	return false;
}

static int check_path(const char *path, const char *entry, struct error *err)
{
	if (path[0] == '\0')
		return refuse(err, entry, "its name is empty");
	if (path[0] == '/')
		return refuse(err, entry, "its name is absolute");
	if (has_dotdot(path))
		return refuse(err, entry, "its name contains \"..\"");
	return 0;
}

/* Removes what an entry of this type replaces; *ret_keep: an existing directory is kept. */
static int make_room(struct tree *t, const char *path, struct tree_entry *e, bool is_dir,
	uint32_t *ret_keep, struct error *err)
{
	const struct tree_node *old = &t->nodes[e->node];
	*ret_keep = TREE_NONE;
	if (S_ISDIR(old->mode)) {
		if (is_dir) {
			*ret_keep = e->node;
			return 0;
		}
		if (old->n_children > 0)
			return refuse(err, path, "it would replace a directory that is not empty");
	}
	unbind(t, e);
	return 0;
}

static void node_clear(struct tree_node *node, uint32_t mode)
{
	node->mode = mode;
	node->xattrs = NULL;
}

int tree_put(struct tree *t, const char *path, uint32_t mode, uint32_t *ret_node, struct error *err)
{
	char name[LIMIT_IMAGE_NAME + 1];
	uint32_t dir, node = TREE_NONE;
	int r = check_path(path, path, err);
	if (r < 0)
		return r;
	r = resolve(t, path, true, &dir, name);
	if (r < 0)
		return refuse_errno(err, path, r);
	if (name[0] == '\0') {
		if (!S_ISDIR(mode))
			return refuse(err, path, "the root must be a directory");
		node_clear(&t->nodes[TREE_ROOT], mode);
		*ret_node = TREE_ROOT;
		return 0;
	}
	if (depth_of(t, dir) + 1 >= LIMIT_IMAGE_DEPTH)
		return refuse_errno(err, path, -ENAMETOOLONG);
	struct tree_entry *e = find_entry(t, dir, name, strlen(name));
	if (e) {
		r = make_room(t, path, e, S_ISDIR(mode), &node, err);
		if (r < 0)
			return r;
	}
	if (node == TREE_NONE) {
		r = new_node(t, mode, &node);
		if (r >= 0)
			r = bind_name(t, dir, name, strlen(name), node);
		if (r < 0)
			return refuse_errno(err, path, r);
	}
	node_clear(&t->nodes[node], mode);
	*ret_node = node;
	return 0;
}

int tree_find(struct tree *t, const char *path, uint32_t *ret_node)
{
	char name[LIMIT_IMAGE_NAME + 1];
	uint32_t dir;
	int r = resolve(t, path, false, &dir, name);
	if (r < 0)
		return r;
	if (name[0] == '\0') {
		*ret_node = dir;
		return 0;
	}
	const struct tree_entry *e = find_entry(t, dir, name, strlen(name));
	if (!e)
		return -ENOENT;
	*ret_node = e->node;
	return 0;
}

int tree_put_hardlink(struct tree *t, const char *path, const char *target, struct error *err)
{
	char name[LIMIT_IMAGE_NAME + 1];
	uint32_t dir, node, keep;
	int r = check_path(path, path, err);
	if (r < 0)
		return r;
	r = check_path(target, path, NULL);
	if (r < 0)
		return refuse(err, path, "it is a hard link to a path outside the archive");
	r = tree_find(t, target, &node);
	if (r == -ENOENT)
		return refuse(err, path,
			"it is a hard link to an entry that the archive does not contain");
	if (r >= 0)
		r = resolve(t, path, true, &dir, name);
	if (r < 0)
		return refuse_errno(err, path, r);
	if (S_ISDIR(t->nodes[node].mode) || name[0] == '\0')
		return refuse(err, path, "a directory cannot be hard-linked");
	struct tree_entry *e = find_entry(t, dir, name, strlen(name));
	if (e && e->node == node)
		return 0;
	if (t->nodes[node].nlink >= TREE_LINK_MAX)
		return refuse(err, path, "the file has more than 65,000 hard links");
	if (e) {
		r = make_room(t, path, e, false, &keep, err);
		if (r < 0)
			return r;
	}
	r = bind_name(t, dir, name, strlen(name), node);
	return r < 0 ? refuse_errno(err, path, r) : 0;
}

int tree_set_target(struct tree *t, uint32_t node, const char *target, struct error *err)
{
	size_t n = strlen(target);
	if (n == 0 || n >= TREE_BLOCK)
		return refuse(
			err, target, "the target of a symbolic link must have 1 to 4095 bytes");
	char *copy = arena_string(t, target, n);
	if (!copy)
		return refuse_errno(err, target, -ENOMEM);
	t->nodes[node].target = copy;
	t->nodes[node].size = n;
	return 0;
}

int tree_add_xattr(struct tree *t, uint32_t node, const char *name, const void *value, size_t n,
	struct error *err)
{
	if (n > LIMIT_IMAGE_XATTR || strlen(name) > LIMIT_IMAGE_NAME)
		return refuse(err, name, "this extended attribute is too large");
	struct tree_xattr *x = arena_alloc(t, sizeof(*x));
	void *copy = arena_alloc(t, n + 1);
	char *key = arena_string(t, name, strlen(name));
	if (!x || !copy || !key)
		return refuse_errno(err, name, -ENOMEM);
	memcpy(copy, value, n);
	struct tree_xattr **p = &t->nodes[node].xattrs;
	while (*p && strcmp((*p)->name, name) < 0)
		p = &(*p)->next;
	struct tree_xattr *next = *p && streq((*p)->name, name) ? (*p)->next : *p;
	*x = (struct tree_xattr){ .next = next, .name = key, .value = copy, .n = n };
	*p = x;
	return 0;
}

static int grow_segments(struct tree *t, struct tree_node *node)
{
	uint32_t cap = node->cap_segments ? node->cap_segments * 2 : 1;
	if (t->arena_total + cap * sizeof(*node->segments) > TREE_ARENA_MAX)
		return -ENOMEM;
	struct tree_segment *p = reallocarray(node->segments, cap, sizeof(*p));
	if (!p)
		return -ENOMEM;
	t->arena_total += (cap - node->cap_segments) * sizeof(*p);
	node->segments = p;
	node->cap_segments = cap;
	return 0;
}

int tree_add_data(struct tree *t, uint32_t node_no, uint64_t offset, uint64_t n)
{
	struct tree_node *node = &t->nodes[node_no];
	uint64_t first = offset / TREE_BLOCK, end = (offset + n + TREE_BLOCK - 1) / TREE_BLOCK;
	if (n == 0)
		return 0;
	if (end < first || end > UINT32_MAX)
		return -EFBIG;
	struct tree_segment *last = node->n_segments ? &node->segments[node->n_segments - 1] : NULL;
	if (last && first < last->first)
		return -EBADMSG;
	if (last && first <= (uint64_t)last->first + last->count) {
		if (end > (uint64_t)last->first + last->count)
			last->count = end - last->first;
		return 0;
	}
	if (node->n_segments == node->cap_segments) {
		int r = grow_segments(t, node);
		if (r < 0)
			return r;
	}
	node->segments[node->n_segments++] = (struct tree_segment){ first, end - first };
	return 0;
}

static int compare_entries(const void *a, const void *b)
{
	const struct tree_entry *x = *(struct tree_entry *const *)a;
	const struct tree_entry *y = *(struct tree_entry *const *)b;
	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	return strcmp(x->name, y->name);
}

int tree_list(struct tree *t, struct tree_listing *ret)
{
	struct tree_listing l = { 0 };
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers */
	l.entries = reallocarray(NULL, t->n_entries + 1, sizeof(*l.entries));
	l.first = reallocarray(NULL, t->n_nodes, sizeof(*l.first));
	if (!l.entries || !l.first) {
		tree_listing_done(&l);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < t->n_entries; i++)
		if (t->entries[i].node != TREE_NONE)
			l.entries[l.n++] = &t->entries[i];
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers */
	qsort(l.entries, l.n, sizeof(*l.entries), compare_entries);
	memset(l.first, 0xff, t->n_nodes * sizeof(*l.first));
	for (size_t i = l.n; i-- > 0;)
		l.first[l.entries[i]->parent] = i;
	*ret = l;
	return 0;
}

void tree_listing_done(struct tree_listing *l)
{
	free(l->entries);
	free(l->first);
	*l = (struct tree_listing){ 0 };
}

char *tree_path(struct tree *t, uint32_t node)
{
	char *path = NULL;
	for (uint32_t at = node; at != TREE_ROOT;) {
		const struct tree_entry *e = NULL;
		for (uint32_t i = 0; i < t->n_entries && !e; i++)
			if (t->entries[i].node == at)
				e = &t->entries[i];
		if (!e)
			break;
		char *more = path ? str_printf("%s/%s", e->name, path) : strdup(e->name);
		free(path);
		if (!more)
			return NULL;
		path = more;
		at = e->parent;
	}
	return path ? path : strdup(".");
}
