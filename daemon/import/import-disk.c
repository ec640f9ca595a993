/* SPDX-License-Identifier: MIT */
/*
 * pyro-import disk: makes a blank disk, a sparse ext4 with the folders of layout 1. Run by pyrod
 * once for each size; machines get sparse copies.
 *
 * Must stay true: it has a journal and checksums, since a guest writes to it and the host may lose
 * power. The inode tables are sparse and read as zeros; the groups are marked as zeroed, so that
 * the guest's kernel does not write them. The data takes at most half of the space that must be
 * free for a new disk (DISK_MARGIN_MIB of machine/quota.c): a blank and a machine's copy fit,
 * whatever the size.
 */
#include "daemon/import/ext4.h"
#include "daemon/import/import.h"
#include "proto/limits.h"
#include <fcntl.h>
#include <getopt.h>

#define BLOCK           4096
#define BLOCKS_PER_MIB  256
#define BYTES_PER_INODE 16384
#define LOG_FLEX        4
/*
 * Beyond 1 TiB: META_BG and fewer inodes. The group descriptors, in 26 copies, and a bitmap for
 * every 16 groups took 232 MiB for 16 TiB. META_BG has three copies and can grow while mounted;
 * with fewer inodes the tables lie closer together, and more groups stay unwritten.
 */
#define HUGE_MIB             (1024 * 1024)
#define HUGE_BYTES_PER_INODE 65536
#define HUGE_LOG_FLEX        8
#define JOURNAL_SMALL        1024 /* blocks: 4 MiB, the minimum */
#define JOURNAL_LARGE        4096 /* 16 MiB */
#define JOURNAL_LARGE_MIB    1024
#define LAYOUT               "1"

/* Mode of /workspace and /tmp: for all users of a machine. guest/tmp.c uses it at later starts. */
static const struct {
	const char *path;
	unsigned mode;
} folders[] = {
	{ "/meta", 0755 },
	{ "/upper", 0755 },
	{ "/work", 0755 },
	{ "/workspace", 01777 },
	{ "/tmp", 01777 },
	{ "/tmp/.X11-unix", 01777 },
	{ "/tmp/.ICE-unix", 01777 },
	{ "/tmp/.XIM-unix", 01777 },
	{ "/tmp/.font-unix", 01777 },
	{ "/data", 0755 },
	{ "/data/docker", 0755 },
	{ "/data/containerd", 0755 },
	{ "/data/containers", 0755 },
};

static void fill_params(uint64_t mib, struct ext2_super_block *p)
{
	bool huge = mib > HUGE_MIB;
	memset(p, 0, sizeof(*p));
	ext2fs_blocks_count_set(p, mib * BLOCKS_PER_MIB);
	uint64_t inodes = mib * MIB / (huge ? HUGE_BYTES_PER_INODE : BYTES_PER_INODE);
	p->s_inodes_count = (uint32_t)MIN_OF(inodes, (uint64_t)1 << 30);
	p->s_rev_level = EXT2_DYNAMIC_REV;
	p->s_inode_size = 256;
	p->s_min_extra_isize = p->s_want_extra_isize = 32;
	p->s_log_block_size = p->s_log_cluster_size = 2;
	p->s_log_groups_per_flex = huge ? HUGE_LOG_FLEX : LOG_FLEX;
	p->s_desc_size = EXT2_MIN_DESC_SIZE_64BIT;
	p->s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_DIR_INDEX;
	p->s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
				EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_64BIT |
				(huge ? EXT2_FEATURE_INCOMPAT_META_BG : 0);
	p->s_feature_ro_compat =
		EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
		EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
		EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;
}

static void fill_super(ext2_filsys fs)
{
	struct ext2_super_block *s = fs->super;
	random_bytes(s->s_uuid, sizeof(s->s_uuid));
	random_bytes(s->s_hash_seed, sizeof(s->s_hash_seed));
	s->s_checksum_type = EXT2_CRC32C_CHKSUM;
	s->s_def_hash_version = EXT2_HASH_HALF_MD4;
	s->s_mkfs_time = (uint32_t)(wall_usec() / USEC_PER_SEC);
	s->s_checkinterval = 0;
	s->s_max_mnt_count = -1;
	s->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
	memcpy(s->s_volume_name, "pyro-own", 8);
	ext2fs_init_csum_seed(fs);
}

/* Marks the inode tables as zeroed: the file is new and sparse. */
static void mark_zeroed(ext2_filsys fs)
{
	for (dgrp_t i = 0; i < fs->group_desc_count; i++) {
		ext2fs_bg_flags_set(fs, i, EXT2_BG_INODE_ZEROED);
		ext2fs_group_desc_csum_set(fs, i);
	}
	ext2fs_mark_super_dirty(fs);
}

static errcode_t make_folder(ext2_filsys fs, const char *path, unsigned mode)
{
	const char *name = strrchr(path, '/') + 1;
	_cleanup_free_ char *parent = strndup(path, name - path);
	ext2_ino_t dir, ino;
	struct ext2_inode inode;
	if (!parent)
		return ENOMEM;
	errcode_t e = ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, parent, &dir);
	if (e == 0)
		e = ext2fs_mkdir(fs, dir, 0, name);
	if (e == 0)
		e = ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino);
	if (e == 0)
		e = ext2fs_read_inode(fs, ino, &inode);
	if (e)
		return e;
	inode.i_mode = (uint16_t)(S_IFDIR | mode);
	inode.i_uid = inode.i_gid = 0;
	return ext2fs_write_inode(fs, ino, &inode);
}

static errcode_t write_layout(ext2_filsys fs, ext2_ino_t ino)
{
	ext2_file_t file;
	unsigned n;
	errcode_t e = ext2fs_file_open(fs, ino, EXT2_FILE_WRITE, &file);
	if (e)
		return e;
	e = ext2fs_file_write(file, LAYOUT, strlen(LAYOUT), &n);
	errcode_t c = ext2fs_file_close(file);
	return e ? e : c;
}

static errcode_t make_layout(ext2_filsys fs)
{
	struct ext2_inode inode = {
		.i_mode = S_IFREG | 0644, .i_links_count = 1, .i_flags = EXT4_EXTENTS_FL
	};
	ext2_extent_handle_t h;
	ext2_ino_t dir, ino;
	inode.i_atime = inode.i_ctime = inode.i_mtime = (uint32_t)(wall_usec() / USEC_PER_SEC);
	errcode_t e = ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/meta", &dir);
	if (e == 0)
		e = ext2fs_new_inode(fs, dir, S_IFREG | 0644, NULL, &ino);
	if (e == 0)
		e = ext2fs_extent_open2(fs, ino, &inode, &h);
	if (e)
		return e;
	ext2fs_extent_free(h);
	ext2fs_inode_alloc_stats2(fs, ino, +1, 0);
	e = ext2fs_write_new_inode(fs, ino, &inode);
	if (e == 0)
		e = ext2fs_link(fs, dir, "layout", ino, EXT2_FT_REG_FILE);
	return e ? e : write_layout(fs, ino);
}

static errcode_t populate(ext2_filsys fs, uint64_t mib)
{
	errcode_t e = ext2fs_allocate_tables(fs);
	if (e == 0)
		e = ext2fs_mkdir(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, 0);
	for (ext2_ino_t i = EXT2_BAD_INO; i < EXT2_FIRST_INODE(fs->super); i++)
		if (i != EXT2_ROOT_INO)
			ext2fs_inode_alloc_stats2(fs, i, +1, 0);
	if (e == 0)
		e = make_folder(fs, "/lost+found", 0755);
	for (size_t i = 0; i < ARRAY_SIZE(folders) && e == 0; i++)
		e = make_folder(fs, folders[i].path, folders[i].mode);
	if (e == 0)
		e = make_layout(fs);
	if (e == 0)
		e = ext2fs_add_journal_inode(fs,
			mib < JOURNAL_LARGE_MIB ? JOURNAL_SMALL : JOURNAL_LARGE,
			EXT2_MKJOURNAL_NO_MNT_CHECK | EXT2_MKJOURNAL_LAZYINIT);
	mark_zeroed(fs);
	return e;
}

static int format(const char *path, uint64_t mib, struct error *err)
{
	struct ext2_super_block param;
	ext2_filsys fs = NULL;
	fill_params(mib, &param);
	errcode_t e = ext2fs_initialize(path, EXT2_FLAG_64BITS, &param, unix_io_manager, &fs);
	if (e)
		return ext4_error(err, e, "lay out", path);
	fill_super(fs);
	e = populate(fs, mib);
	errcode_t c = ext2fs_close_free(&fs);
	return e || c ? ext4_error(err, e ? e : c, "format", path) : 0;
}

static int run(const char *output, uint64_t mib, json_object **ret, struct error *err)
{
	_cleanup_free_ char *tmp = str_printf("%s.tmp", output);
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!tmp || !o || json_add_int(o, "size_bytes", (int64_t)(mib * MIB)) < 0)
		return error_no_memory(err, "no memory for a disk");
	(void)unlink(tmp);
	_cleanup_close_ int fd = open(tmp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"cannot create \"%s\"", tmp);
	import_undo_file(tmp);
	int r = ftruncate(fd, (off_t)(mib * MIB)) < 0 ? ext4_error(err, errno, "size", tmp)
						      : format(tmp, mib, err);
	if (r >= 0 && (fsync(fd) < 0 || rename(tmp, output) < 0))
		r = ext4_error(err, errno, "put in place", output);
	if (r < 0)
		(void)unlink(tmp);
	import_undo_file(NULL);
	if (r >= 0)
		*ret = TAKE_PTR(o);
	return r;
}

int import_disk_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size-mib", required_argument, NULL, 's' },
		{ "output", required_argument, NULL, 'o' },
		{ 0 },
	};
	const char *output = NULL;
	uint64_t mib = 0;
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 's' && parse_u64(optarg, DISK_MIB_MIN, DISK_MIB_MAX, &mib) >= 0)
			continue;
		if (c != 'o')
			return 2;
		output = optarg;
	}
	if (!output || mib == 0 || optind < argc) {
		fprintf(stderr, "usage: pyro-import disk --size-mib N --output FILE\n");
		return 2;
	}
	return run(output, mib, &result, &err) < 0 ? import_fail(&err) : import_succeed(result);
}
