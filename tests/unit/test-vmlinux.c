/* SPDX-License-Identifier: MIT */
/*
 * Tests of daemon/import/vmlinux.c. Boot images made here are extracted unchanged for every
 * compression. Images that are cut at any length, or have hostile values in any header field, are
 * refused or give a kernel that passed the checks, without a read out of bounds (run under ASan,
 * where each allocation is exactly as long as its image).
 */

#include <elf.h>

#include <check.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "daemon/import/vmlinux.h"
#include "proto/limits.h"

#define KERNEL_SIZE   ((size_t)20 * 1024)
#define NOTE_OFFSET   ((size_t)512)
#define BANNER_OFFSET ((size_t)1024)
#define SETUP_SECTS   2
#define PAYLOAD_AT    ((size_t)(SETUP_SECTS + 1) * 512 + 100)
#define VERSION       "6.1.0-99-test"

struct blob {
	uint8_t *data;
	size_t n;
};

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v & 0xffff);
	put16(p + 2, v >> 16);
}

/* A small ELF kernel: one segment to load, one note, a banner. */
static struct blob kernel_new(void)
{
	struct blob b = { calloc(1, KERNEL_SIZE), KERNEL_SIZE };
	Elf64_Ehdr eh = { .e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_phoff = sizeof(eh),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2 };
	Elf64_Phdr ph[2] = {
		{ .p_type = PT_LOAD, .p_offset = 4096, .p_filesz = 8192 },
		{ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 36 },
	};
	uint8_t *note = b.data + NOTE_OFFSET;

	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	eh.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(b.data, &eh, sizeof(eh));
	memcpy(b.data + sizeof(eh), ph, sizeof(ph));
	/* An unrelated note first, then the entry. */
	put32(note, 2);
	put32(note + 4, 0);
	put32(note + 8, 1);
	memcpy(note + 12, "G", 2);
	put32(note + 16, 4);
	put32(note + 20, 4);
	put32(note + 24, 18);
	memcpy(note + 28, "Xen", 4);
	put32(note + 32, 0x1000850);
	strcpy((char *)b.data + BANNER_OFFSET, "Linux version " VERSION " (someone@somewhere)");
	for (size_t i = 2048; i < KERNEL_SIZE; i++)
		b.data[i] = (uint8_t)(i * 7 + i / 251);

	return b;
}

enum packing { PACK_LZ4, PACK_XZ, PACK_ZSTD, PACK_GZIP, PACK_MAX };

static size_t pack_lz4(const struct blob *k, uint8_t *out, size_t cap)
{
	int n;

	put32(out, 0x184c2102);
	n = LZ4_compress_default((const char *)k->data, (char *)out + 8, (int)k->n, (int)(cap - 8));
	ck_assert_int_gt(n, 0);
	put32(out + 4, (uint32_t)n);

	return (size_t)n + 8;
}

static size_t pack_gzip(const struct blob *k, uint8_t *out, size_t cap)
{
	z_stream z = {
		.next_in = k->data, .avail_in = (uInt)k->n, .next_out = out, .avail_out = (uInt)cap
	};

	ck_assert_int_eq(
		deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
	ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	cap = z.total_out;
	deflateEnd(&z);

	return cap;
}

static size_t pack(enum packing how, const struct blob *k, uint8_t *out, size_t cap)
{
	size_t n = 0;

	switch (how) {
	case PACK_LZ4: return pack_lz4(k, out, cap);
	case PACK_GZIP: return pack_gzip(k, out, cap);
	case PACK_XZ:
		ck_assert_int_eq(lzma_easy_buffer_encode(
					 3, LZMA_CHECK_CRC32, NULL, k->data, k->n, out, &n, cap),
			LZMA_OK);
		return n;
	case PACK_ZSTD:
		n = ZSTD_compress(out, cap, k->data, k->n, 3);
		ck_assert(!ZSTD_isError(n));
		return n;
	default: ck_abort_msg("no such packing");
	}
}

/* A bzImage around the kernel, in an allocation of exactly its size. */
static struct blob image_new(enum packing how, const struct blob *k)
{
	uint8_t payload[64 * 1024];
	size_t n = pack(how, k, payload, sizeof(payload) - 4);
	struct blob b;

	if (how != PACK_GZIP) {
		put32(payload + n, (uint32_t)k->n);
		n += 4;
	}
	b.n = PAYLOAD_AT + n;
	b.data = calloc(1, b.n);
	b.data[0x1f1] = SETUP_SECTS;
	put16(b.data + 0x1fe, 0xaa55);
	memcpy(b.data + 0x202, "HdrS", 4);
	put16(b.data + 0x206, 0x20f);
	put16(b.data + 0x20e, 0x300);
	strcpy((char *)b.data + 0x500, VERSION " (someone)");
	put32(b.data + 0x248, 100);
	put32(b.data + 0x24c, (uint32_t)n);
	memcpy(b.data + PAYLOAD_AT, payload, n);

	return b;
}

/* Extracts from a copy of exactly n bytes. */
static int extract(const uint8_t *p, size_t n, struct vmlinux *ret)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	uint8_t *copy = malloc(n ? n : 1);
	int r;

	memcpy(copy, p, n);
	r = vmlinux_extract(copy, n, ret, &err);
	free(copy);
	ck_assert_int_eq(r < 0, err.set);
	if (r < 0) {
		ck_assert_ptr_nonnull(err.message);
		ck_assert_ptr_null(ret->data);
	}

	return r;
}

START_TEST(extracts_every_packing)
{
	_cleanup_(vmlinux_done) struct vmlinux v = VMLINUX_INIT;
	struct blob k = kernel_new(), b = image_new((enum packing)_i, &k);

	ck_assert_int_eq(extract(b.data, b.n, &v), 0);
	ck_assert_uint_eq(v.size, k.n);
	ck_assert_int_eq(memcmp(v.data, k.data, k.n), 0);
	ck_assert_str_eq(v.version, VERSION);
	free(k.data);
	free(b.data);
}
END_TEST

START_TEST(takes_an_elf_as_it_is)
{
	_cleanup_(vmlinux_done) struct vmlinux v = VMLINUX_INIT;
	struct blob k = kernel_new();

	ck_assert_int_eq(extract(k.data, k.n, &v), 0);
	ck_assert_uint_eq(v.size, k.n);
	ck_assert_str_eq(v.version, VERSION);
	free(k.data);
}
END_TEST

/* Every length from 0 on is refused, since the payload or a segment is cut off. */
START_TEST(refuses_cut_images)
{
	struct vmlinux v = VMLINUX_INIT;
	struct blob k = kernel_new(), b = image_new((enum packing)_i, &k);

	for (size_t n = 0; n < b.n; n += n < PAYLOAD_AT ? 1 : 37)
		ck_assert_int_lt(extract(b.data, n, &v), 0);
	for (size_t n = 0; n < 4096 + 8192; n += n < 2048 ? 1 : 61)
		ck_assert_int_lt(extract(k.data, n, &v), 0);
	free(k.data);
	free(b.data);
}
END_TEST

static void set_and_extract(const struct blob *b, size_t at, size_t width, uint64_t value)
{
	struct vmlinux v = VMLINUX_INIT;
	uint8_t *copy = malloc(b->n);

	memcpy(copy, b->data, b->n);
	for (size_t i = 0; i < width; i++)
		copy[at + i] = (uint8_t)(value >> 8 * i);
	(void)extract(copy, b->n, &v);
	vmlinux_done(&v);
	free(copy);
}

/* Extreme values in every field: nothing is read outside the image. */
START_TEST(survives_hostile_fields)
{
	static const uint64_t values[] = { 0, 1, 3, 4, 15, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff,
		0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000,
		0x7fffffffffffffff, 0xfffffffffffffff0, 0xffffffffffffffff };
	struct blob k = kernel_new(), b = image_new((enum packing)_i, &k);

	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		set_and_extract(&b, 0x1f1, 1, values[i]);
		set_and_extract(&b, 0x206, 2, values[i]);
		set_and_extract(&b, 0x20e, 2, values[i]);
		set_and_extract(&b, 0x248, 4, values[i]);
		set_and_extract(&b, 0x24c, 4, values[i]);
		set_and_extract(&b, b.n - 4, 4, values[i]);
		for (size_t at = 0; at < 32; at += 4)
			set_and_extract(&b, PAYLOAD_AT + at, 4, values[i]);
		for (size_t at = 16; at < 64 + 2 * 56; at += 2) {
			set_and_extract(&k, at, 2, values[i]);
			set_and_extract(&k, at, 4, values[i]);
			set_and_extract(&k, at, 8, values[i]);
		}
		for (size_t at = 0; at < 36; at += 4)
			set_and_extract(&k, NOTE_OFFSET + at, 4, values[i]);
	}
	free(k.data);
	free(b.data);
}
END_TEST

/* Inverts each byte of the payload: an error, or (where no checksum covers it) a checked kernel. */
START_TEST(survives_damaged_payloads)
{
	struct blob k = kernel_new(), b = image_new((enum packing)_i, &k);

	for (size_t at = PAYLOAD_AT; at < b.n; at += 5)
		set_and_extract(&b, at, 1, (uint8_t)~b.data[at]);
	free(k.data);
	free(b.data);
}
END_TEST

static void refuse_elf(size_t at, unsigned byte)
{
	struct vmlinux v = VMLINUX_INIT;
	struct blob k = kernel_new();

	k.data[at] = (uint8_t)byte;
	ck_assert_int_lt(extract(k.data, k.n, &v), 0);
	free(k.data);
}

START_TEST(refuses_other_elf_files)
{
	refuse_elf(EI_CLASS, ELFCLASS32);
	refuse_elf(EI_DATA, ELFDATA2MSB);
	refuse_elf(offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
	refuse_elf(offsetof(Elf64_Ehdr, e_type), ET_DYN);
	refuse_elf(offsetof(Elf64_Ehdr, e_phnum), 0);
	refuse_elf(offsetof(Elf64_Ehdr, e_phentsize), 1);
	/* No segment to load, then no PVH note of that owner, then none of that type. */
	refuse_elf(sizeof(Elf64_Ehdr), PT_NULL);
	refuse_elf(NOTE_OFFSET + 28, 'x');
	refuse_elf(NOTE_OFFSET + 24, 17);
}
END_TEST

START_TEST(refuses_a_lying_size)
{
	struct vmlinux v = VMLINUX_INIT;
	struct blob k = kernel_new(), b = image_new((enum packing)_i, &k);

	put32(b.data + b.n - 4, (uint32_t)k.n - 1);
	ck_assert_int_lt(extract(b.data, b.n, &v), 0);
	put32(b.data + b.n - 4, (uint32_t)k.n + 1);
	ck_assert_int_lt(extract(b.data, b.n, &v), 0);
	put32(b.data + b.n - 4, LIMIT_VMLINUX_BYTES + 1);
	ck_assert_int_lt(extract(b.data, b.n, &v), 0);
	free(k.data);
	free(b.data);
}
END_TEST

START_TEST(checks_versions)
{
	char longest[IMPORT_VERSION_SIZE + 1];

	ck_assert(vmlinux_version_valid("6.1.0-56-cloud-amd64"));
	ck_assert(vmlinux_version_valid("6.12~rc1+deb13.1_x"));
	ck_assert(!vmlinux_version_valid(""));
	ck_assert(!vmlinux_version_valid(".."));
	ck_assert(!vmlinux_version_valid("../6.1"));
	ck_assert(!vmlinux_version_valid("6.1/x"));
	ck_assert(!vmlinux_version_valid("6.1 x"));
	ck_assert(!vmlinux_version_valid("-b"));
	memset(longest, '6', sizeof(longest));
	longest[IMPORT_VERSION_SIZE] = '\0';
	ck_assert(!vmlinux_version_valid(longest));
	longest[IMPORT_VERSION_SIZE - 1] = '\0';
	ck_assert(vmlinux_version_valid(longest));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmlinux");
	TCase *tc = tcase_create("vmlinux");
	SRunner *sr;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, extracts_every_packing, 0, PACK_MAX);
	tcase_add_test(tc, takes_an_elf_as_it_is);
	tcase_add_loop_test(tc, refuses_cut_images, 0, PACK_MAX);
	tcase_add_loop_test(tc, survives_hostile_fields, 0, PACK_MAX);
	tcase_add_loop_test(tc, survives_damaged_payloads, 0, PACK_MAX);
	tcase_add_test(tc, refuses_other_elf_files);
	tcase_add_loop_test(tc, refuses_a_lying_size, 0, PACK_MAX);
	tcase_add_test(tc, checks_versions);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);

	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
