/* SPDX-License-Identifier: MIT */
/*
 * The merged path tree: the result matches tar's, nothing is outside the root, names and depth are
 * limited. Run by `meson test`. Each case builds a tree of its own.
 */
#include "daemon/import/epoch.h"
#include "daemon/import/tree.h"
#include "proto/limits.h"
#include <check.h>

static struct tree *tree;

static void setup(void)
{
	ck_assert_int_eq(tree_new(&tree), 0);
}

static void teardown(void)
{
	tree = tree_free(tree);
}

static int put(const char *path, uint32_t mode)
{
	uint32_t node;
	return tree_put(tree, path, mode, &node, NULL);
}

static uint32_t must_put(const char *path, uint32_t mode)
{
	uint32_t node = TREE_NONE;
	ck_assert_int_eq(tree_put(tree, path, mode, &node, NULL), 0);
	return node;
}

static uint32_t find(const char *path)
{
	uint32_t node;
	return tree_find(tree, path, &node) < 0 ? TREE_NONE : node;
}

static void put_link(const char *path, const char *target)
{
	uint32_t node = must_put(path, S_IFLNK | 0777);
	ck_assert_int_eq(tree_set_target(tree, node, target, NULL), 0);
}

START_TEST(names_are_normalised)
{
	uint32_t node = must_put("./a//b/./c", S_IFREG | 0644);
	ck_assert_uint_eq(find("a/b/c"), node);
	ck_assert_uint_eq(find("a/b/c/"), node);
	ck_assert_uint_eq(must_put("./", S_IFDIR | 0700), TREE_ROOT);
	ck_assert_uint_eq(must_put(".", S_IFDIR | 0755), TREE_ROOT);
	ck_assert_uint_eq(tree_node(tree, find("a"))->mode, S_IFDIR | 0755);
}
END_TEST

START_TEST(outside_is_refused)
{
	const char *const bad[] = { "", "/etc/passwd", "../x", "a/../../x", "a/..", "..", "./.." };
	_cleanup_error_ struct error err = ERROR_INIT;
	uint32_t node;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_lt(put(bad[i], S_IFREG | 0644), 0);
	ck_assert_int_lt(put(".", S_IFLNK | 0777), 0);
	ck_assert_int_lt(tree_put(tree, "x/../y", S_IFREG, &node, &err), 0);
	ck_assert_int_eq(err.code, ERROR_SEED_REFUSED);
	ck_assert_ptr_nonnull(strstr(err.message, "x/../y"));
	ck_assert_uint_eq(tree_node(tree, TREE_ROOT)->n_children, 0);
}
END_TEST

START_TEST(links_resolve_inside)
{
	must_put("usr/lib", S_IFDIR | 0755);
	put_link("lib", "usr/lib");
	put_link("abs", "/usr/lib");
	put_link("up", "../../../../usr");
	put_link("loop", "loop");
	uint32_t node = must_put("lib/x.so", S_IFREG | 0644);
	ck_assert_uint_eq(find("usr/lib/x.so"), node);
	ck_assert_uint_eq(find("abs/x.so"), node);
	ck_assert_uint_eq(find("up/lib/x.so"), node);
	ck_assert(S_ISLNK(tree_node(tree, find("lib"))->mode));
	ck_assert_int_lt(put("loop/x", S_IFREG), 0);
	uint32_t dummy;
	ck_assert_int_eq(tree_find(tree, "loop/x", &dummy), -ELOOP);
}
END_TEST

START_TEST(later_replaces_earlier)
{
	uint32_t first = must_put("d", S_IFDIR | 0755), file = must_put("d/f", S_IFREG | 0644);
	ck_assert_uint_eq(must_put("d", S_IFDIR | 0700), first);
	ck_assert_uint_eq(find("d/f"), file);
	ck_assert_int_lt(put("d", S_IFREG | 0644), 0); /* not empty */
	must_put("e", S_IFDIR | 0755);
	must_put("e", S_IFREG | 0644); /* empty: replaced */
	ck_assert(S_ISREG(tree_node(tree, find("e"))->mode));
	ck_assert_int_lt(put("e/below", S_IFREG), 0);
	put_link("l", "d");
	must_put("l", S_IFDIR | 0755); /* a directory takes a link's place */
	ck_assert(S_ISDIR(tree_node(tree, find("l"))->mode));
	ck_assert_uint_ne(must_put("d/f", S_IFIFO | 0644), file);
	ck_assert_uint_eq(tree_node(tree, file)->nlink, 0);
	ck_assert_uint_eq(tree_node(tree, first)->n_children, 1);
}
END_TEST

START_TEST(hard_links)
{
	uint32_t node = must_put("a", S_IFREG | 0644), link;
	ck_assert_int_eq(tree_put_hardlink(tree, "b", "./a", NULL), 0);
	ck_assert_int_eq(tree_put_hardlink(tree, "b", "a", NULL), 0); /* again: nothing to do */
	ck_assert_uint_eq(find("b"), node);
	ck_assert_uint_eq(tree_node(tree, node)->nlink, 2);
	ck_assert_int_lt(tree_put_hardlink(tree, "c", "missing", NULL), 0);
	ck_assert_int_lt(tree_put_hardlink(tree, "c", "/etc/passwd", NULL), 0);
	ck_assert_int_lt(tree_put_hardlink(tree, "c", "../a", NULL), 0);
	must_put("dir", S_IFDIR | 0755);
	ck_assert_int_lt(tree_put_hardlink(tree, "c", "dir", NULL), 0);
	ck_assert_int_lt(tree_put_hardlink(tree, ".", "a", NULL), 0);
	must_put("a", S_IFREG | 0600); /* a new file: b keeps the old one */
	ck_assert_uint_eq(find("b"), node);
	ck_assert_uint_eq(tree_node(tree, node)->nlink, 1);
	put_link("sym", "a");
	ck_assert_int_eq(tree_put_hardlink(tree, "sym2", "sym", NULL), 0);
	ck_assert_int_eq(tree_find(tree, "sym2", &link), 0);
	ck_assert(S_ISLNK(tree_node(tree, link)->mode));
}
END_TEST

START_TEST(bounds)
{
	char name[LIMIT_IMAGE_NAME + 2], path[LIMIT_IMAGE_PATH + 2];
	memset(name, 'n', sizeof(name));
	name[LIMIT_IMAGE_NAME + 1] = '\0';
	ck_assert_int_lt(put(name, S_IFREG), 0);
	name[LIMIT_IMAGE_NAME] = '\0';
	must_put(name, S_IFREG);
	for (size_t i = 0; i < sizeof(path) - 1; i++)
		path[i] = i % 2 ? '/' : 'p';
	path[sizeof(path) - 1] = '\0';
	ck_assert_int_lt(put(path, S_IFREG), 0);
	path[2 * LIMIT_IMAGE_DEPTH] = '\0';
	ck_assert_int_lt(put(path, S_IFREG), 0); /* too deep */
	path[2 * (LIMIT_IMAGE_DEPTH - 2)] = '\0';
	must_put(path, S_IFDIR);
	uint32_t node = must_put("x", S_IFLNK);
	ck_assert_int_lt(tree_set_target(tree, node, "", NULL), 0);
	ck_assert_int_lt(
		tree_add_xattr(tree, node, "user.x", path, LIMIT_IMAGE_XATTR + 1, NULL), 0);
}
END_TEST

START_TEST(segments)
{
	uint32_t f = must_put("f", S_IFREG);
	ck_assert_int_eq(tree_add_data(tree, f, 0, 10), 0);
	ck_assert_int_eq(tree_add_data(tree, f, 10, 5000), 0);
	ck_assert_int_eq(tree_add_data(tree, f, 40960, 1), 0);
	ck_assert_int_eq(tree_add_data(tree, f, 40961, 0), 0);
	const struct tree_node *n = tree_node(tree, f);
	ck_assert_uint_eq(n->n_segments, 2);
	ck_assert_uint_eq(n->segments[0].count, 2);
	ck_assert_uint_eq(n->segments[1].first, 10);
	ck_assert_int_eq(tree_add_data(tree, f, 0, 1), -EBADMSG);
	ck_assert_int_eq(tree_add_data(tree, f, UINT64_MAX - 10, 100), -EFBIG);
}
END_TEST

START_TEST(listing_is_sorted)
{
	struct tree_listing l;
	char path[32];
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "d/%05u", i * 7919 % 20000);
		must_put(path, S_IFREG);
	}
	must_put("gone", S_IFREG);
	must_put("gone", S_IFREG);
	ck_assert_int_eq(tree_list(tree, &l), 0);
	ck_assert_uint_eq(l.n, 20002);
	uint32_t first = l.first[find("d")];
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "%05u", i);
		ck_assert_str_eq(l.entries[first + i]->name, path);
	}
	tree_listing_done(&l);
}
END_TEST

START_TEST(xattrs_sorted_and_replaced)
{
	uint32_t f = must_put("f", S_IFREG);
	ck_assert_int_eq(tree_add_xattr(tree, f, "user.b", "1", 1, NULL), 0);
	ck_assert_int_eq(tree_add_xattr(tree, f, "user.a", "2", 1, NULL), 0);
	ck_assert_int_eq(tree_add_xattr(tree, f, "user.b", "33", 2, NULL), 0);
	const struct tree_xattr *x = tree_node(tree, f)->xattrs;
	ck_assert_str_eq(x->name, "user.a");
	ck_assert_uint_eq(x->next->n, 2);
	ck_assert_ptr_null(x->next->next);
	must_put("f", S_IFREG);
	ck_assert_ptr_null(tree_node(tree, find("f"))->xattrs);
}
END_TEST

static uint32_t put_at(const char *path, uint32_t mode, int64_t sec, uint32_t nsec)
{
	uint32_t node = must_put(path, mode);
	tree_node(tree, node)->mtime = tree_node(tree, node)->atime =
		(struct tree_time){ sec, nsec };
	return node;
}

static void has_time(uint32_t node, int64_t sec, uint32_t nsec)
{
	ck_assert_int_eq(tree_node(tree, node)->mtime.sec, sec);
	ck_assert_uint_eq(tree_node(tree, node)->mtime.nsec, nsec);
	ck_assert_int_eq(tree_node(tree, node)->atime.sec, sec);
	ck_assert_uint_eq(tree_node(tree, node)->atime.nsec, nsec);
}

/* Times later than the newest changelog of a package are set to its date; no others are changed. */
START_TEST(epoch)
{
	uint32_t early = put_at("bin/early", S_IFREG | 0755, 400, 7);
	uint32_t late = put_at("etc/late", S_IFREG | 0644, 900, 0);
	uint32_t dir = put_at("etc", S_IFDIR | 0755, 501, 0);
	uint32_t link = put_at("etc/link", S_IFLNK | 0777, 500, 6);
	ck_assert_int_eq(epoch_apply(tree), 0);
	has_time(late, 900, 0); /* without a reference date */
	(void)put_at("usr/share/doc/a/changelog.gz", S_IFREG | 0644, 300, 0);
	(void)put_at("usr/share/doc/b/changelog.Debian.gz", S_IFREG | 0644, 500, 5);
	(void)put_at("usr/share/doc/b/copyright", S_IFREG | 0644, 800, 0);
	(void)put_at("usr/share/doc/changelog", S_IFREG | 0644, 800, 0);
	(void)put_at("usr/share/doc/c/changelog", S_IFDIR | 0755, 800, 0);
	(void)put_at("usr/share/doc/d/deep/changelog", S_IFREG | 0644, 800, 0);
	(void)put_at("usr/share/doc/e/changelog", S_IFLNK | 0777, 800, 0);
	ck_assert_int_eq(epoch_apply(tree), 0);
	has_time(early, 400, 7);
	has_time(late, 500, 5);
	has_time(dir, 500, 5);
	has_time(link, 500, 5);
	has_time(find("usr/share/doc/b/copyright"), 500, 5);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tree");
	TCase *tc = tcase_create("tree");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, epoch);
	tcase_add_test(tc, names_are_normalised);
	tcase_add_test(tc, outside_is_refused);
	tcase_add_test(tc, links_resolve_inside);
	tcase_add_test(tc, later_replaces_earlier);
	tcase_add_test(tc, hard_links);
	tcase_add_test(tc, bounds);
	tcase_add_test(tc, segments);
	tcase_add_test(tc, listing_is_sorted);
	tcase_add_test(tc, xattrs_sorted_and_replaced);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
