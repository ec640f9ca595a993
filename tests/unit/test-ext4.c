/* SPDX-License-Identifier: MIT */
/*
 * Reads images of the writer back through libext2fs: inode fields, extreme times, sparse and
 * fragmented files, devices, links, attributes, and the same bytes for the same tree. Run by `meson
 * test`; e2fsck and a kernel check images in tests/t/test_image.py.
 */
#include "daemon/import/ext4.h"
#include <check.h>
#include <fcntl.h>

static struct tree *tree;
static int spool;
static char dir[] = "/tmp/test-ext4-XXXXXX";
static char path[64];

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	spool = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	ck_assert_int_ge(spool, 0);
	ck_assert_int_eq(tree_new(&tree), 0);
}

static void teardown(void)
{
	tree = tree_free(tree);
	spool = fd_close(spool);
	(void)unlink(path);
	(void)rmdir(dir);
}

static struct tree_node *put(const char *name, uint32_t mode)
{
	uint32_t node = TREE_NONE;
	ck_assert_int_eq(tree_put(tree, name, mode, &node, NULL), 0);
	return tree_node(tree, node);
}

static int write_to(const char *to, struct error *err)
{
	struct ext4_result res;
	_cleanup_close_ int fd = open(to, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	return ext4_write(tree, spool, fd, &res, err);
}

static ext2_filsys write_and_open(void)
{
	ext2_filsys fs;
	ck_assert_int_eq(write_to(path, NULL), 0);
	ck_assert_int_eq(ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs), 0);
	return fs;
}

static ext2_ino_t read_inode(ext2_filsys fs, const char *name, struct ext2_inode_large *ret)
{
	ext2_ino_t ino;
	ck_assert_int_eq(ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, name, &ino), 0);
	ck_assert_int_eq(
		ext2fs_read_inode_full(fs, ino, (struct ext2_inode *)ret, sizeof(*ret)), 0);
	return ino;
}

START_TEST(empty_tree)
{
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	read_inode(fs, "/", &in);
	ck_assert_int_eq(in.i_links_count, 2);
	ck_assert_int_eq(fs->super->s_r_blocks_count, 0);
	ck_assert(!ext2fs_has_feature_journal(fs->super));
	ext2fs_free(fs);
}
END_TEST

START_TEST(times_at_the_edges)
{
	static const struct {
		int64_t sec;
		uint32_t low, epoch;
	} cases[] = {
		{ 0, 0, 0 },
		{ -1, UINT32_MAX, 0 },
		{ INT32_MAX, INT32_MAX, 0 },
		{ INT64_C(1) << 31, UINT32_C(1) << 31, 1 },
		{ INT32_MIN, UINT32_C(1) << 31, 0 },
		{ INT64_MIN, UINT32_C(1) << 31, 0 },
		{ INT64_MAX, INT32_MAX, 3 },
	};
	char name[16];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(name, sizeof(name), "t%zu", i);
		put(name, S_IFREG)->mtime = (struct tree_time){ cases[i].sec, 999999999 };
	}
	ext2_filsys fs = write_and_open();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ext2_inode_large in;
		snprintf(name, sizeof(name), "/t%zu", i);
		read_inode(fs, name, &in);
		ck_assert_uint_eq(in.i_mtime, cases[i].low);
		ck_assert_uint_eq(in.i_mtime_extra, UINT32_C(999999999) << 2 | cases[i].epoch);
	}
	ext2fs_free(fs);
}
END_TEST

START_TEST(special_files)
{
	struct tree_node *n = put("old", S_IFCHR | 0600);
	n->dev_major = 1;
	n->dev_minor = 3;
	n = put("new", S_IFBLK | 0600);
	n->dev_major = 300;
	n->dev_minor = 70000;
	n->uid = 0x12345678;
	n->gid = 0x87654321;
	put("fifo", S_IFIFO | 04755);
	put("sock", S_IFSOCK | 0755);
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	read_inode(fs, "/old", &in);
	ck_assert_uint_eq(in.i_block[0], 0x103);
	read_inode(fs, "/new", &in);
	ck_assert_uint_eq(in.i_block[1], (70000 & 0xff) | 300 << 8 | (70000U & ~0xffU) << 12);
	ck_assert_uint_eq(inode_uid(in), 0x12345678);
	ck_assert_uint_eq(inode_gid(in), 0x87654321);
	read_inode(fs, "/fifo", &in);
	ck_assert_uint_eq(in.i_mode, S_IFIFO | 04755);
	read_inode(fs, "/sock", &in);
	ck_assert_uint_eq(in.i_mode, S_IFSOCK | 0755);
	ext2fs_free(fs);
}
END_TEST

static void check_link(const char *name, size_t n)
{
	char target[TREE_BLOCK];
	uint32_t node;
	memset(target, 't', n);
	target[n] = '\0';
	ck_assert_int_eq(tree_put(tree, name, S_IFLNK | 0777, &node, NULL), 0);
	ck_assert_int_eq(tree_set_target(tree, node, target, NULL), 0);
}

START_TEST(symbolic_links)
{
	check_link("fast", 59);
	check_link("slow", 60);
	check_link("longest", TREE_BLOCK - 1);
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	read_inode(fs, "/fast", &in);
	ck_assert_uint_eq(in.i_blocks, 0);
	ck_assert_int_eq(memcmp(in.i_block, "tttt", 4), 0);
	read_inode(fs, "/slow", &in);
	ck_assert_uint_eq(in.i_blocks, 8);
	read_inode(fs, "/longest", &in);
	ck_assert_uint_eq(in.i_size, TREE_BLOCK - 1);
	ext2fs_free(fs);
}
END_TEST

/* Every other block is a hole, so each block is an extent and the extents need a tree. */
START_TEST(many_extents)
{
	const unsigned n = 5000;
	uint32_t node;
	ck_assert_int_eq(tree_put(tree, "f", S_IFREG | 0644, &node, NULL), 0);
	for (unsigned i = 0; i < n; i++) {
		uint32_t v = i;
		ck_assert_int_eq(
			tree_add_data(tree, node, (uint64_t)i * 2 * TREE_BLOCK, sizeof(v)), 0);
		ck_assert_int_eq(pwrite(spool, &v, sizeof(v), (off_t)i * TREE_BLOCK), sizeof(v));
	}
	tree_node(tree, node)->size = (uint64_t)n * 2 * TREE_BLOCK;
	ck_assert_int_eq(ftruncate(spool, (off_t)n * TREE_BLOCK), 0);
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	ext2_ino_t ino = read_inode(fs, "/f", &in);
	ext2_file_t file;
	ck_assert_int_eq(ext2fs_file_open(fs, ino, 0, &file), 0);
	for (unsigned i = 0; i < n; i += 7) {
		uint32_t v = 0;
		unsigned got;
		ck_assert_int_eq(
			ext2fs_file_llseek(file, (uint64_t)i * 2 * TREE_BLOCK, EXT2_SEEK_SET, NULL),
			0);
		ck_assert_int_eq(ext2fs_file_read(file, &v, sizeof(v), &got), 0);
		ck_assert_uint_eq(v, i);
	}
	ck_assert_int_eq(ext2fs_file_close(file), 0);
	ext2fs_free(fs);
}
END_TEST

START_TEST(links_and_counts)
{
	put("d/one", S_IFDIR | 0755);
	put("d/two", S_IFDIR | 0755);
	put("d/f", S_IFREG);
	ck_assert_int_eq(tree_put_hardlink(tree, "g", "d/f", NULL), 0);
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	read_inode(fs, "/d", &in);
	ck_assert_uint_eq(in.i_links_count, 4);
	ext2_ino_t a = read_inode(fs, "/d/f", &in), b = read_inode(fs, "/g", &in);
	ck_assert_uint_eq(a, b);
	ck_assert_uint_eq(in.i_links_count, 2);
	ext2fs_free(fs);
}
END_TEST

START_TEST(attributes)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char big[TREE_BLOCK] = { 0 };
	uint32_t node;
	ck_assert_int_eq(tree_put(tree, "f", S_IFREG, &node, NULL), 0);
	ck_assert_int_eq(tree_add_xattr(tree, node, "user.small", "v", 1, NULL), 0);
	ck_assert_int_eq(tree_add_xattr(tree, node, "user.large", big, 3000, NULL), 0);
	ext2_filsys fs = write_and_open();
	struct ext2_inode_large in;
	struct ext2_xattr_handle *h;
	void *value;
	size_t n;
	ck_assert_int_eq(ext2fs_xattrs_open(fs, read_inode(fs, "/f", &in), &h), 0);
	ck_assert_int_eq(ext2fs_xattrs_read(h), 0);
	ck_assert_int_eq(ext2fs_xattr_get(h, "user.large", &value, &n), 0);
	ck_assert_uint_eq(n, 3000);
	ext2fs_free_mem(&value);
	ck_assert_int_eq(ext2fs_xattrs_close(&h), 0);
	ext2fs_free(fs);
	/* Attributes larger than ext4 allows are refused by name, not cut. */
	ck_assert_int_eq(tree_add_xattr(tree, node, "user.huge", big, sizeof(big), NULL), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_lt(write_to(path, &err), 0);
	ck_assert_int_eq(err.code, ERROR_SEED_REFUSED);
}
END_TEST

START_TEST(same_tree_same_bytes)
{
	char other[80], a[TREE_BLOCK], b[TREE_BLOCK];
	snprintf(other, sizeof(other), "%s/other", dir);
	put("d/f", S_IFREG | 0644)->mtime.sec = 1700000000;
	put("d/g", S_IFDIR | 0755)->mtime.sec = -5;
	ck_assert_int_eq(write_to(path, NULL), 0);
	ck_assert_int_eq(write_to(other, NULL), 0);
	int x = open(path, O_RDONLY | O_CLOEXEC), y = open(other, O_RDONLY | O_CLOEXEC);
	(void)unlink(other);
	ssize_t n;
	while ((n = read(x, a, sizeof(a))) > 0) {
		ck_assert_int_eq(read(y, b, sizeof(b)), n);
		ck_assert_int_eq(memcmp(a, b, n), 0);
	}
	ck_assert_int_eq(read(y, b, 1), 0);
	(void)close(x);
	(void)close(y);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ext4");
	TCase *tc = tcase_create("ext4");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, empty_tree);
	tcase_add_test(tc, times_at_the_edges);
	tcase_add_test(tc, special_files);
	tcase_add_test(tc, symbolic_links);
	tcase_add_test(tc, many_extents);
	tcase_add_test(tc, links_and_counts);
	tcase_add_test(tc, attributes);
	tcase_add_test(tc, same_tree_same_bytes);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
