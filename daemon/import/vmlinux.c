/* SPDX-License-Identifier: MIT */
/*
 * Reads the x86 boot image format: finds the payload of a bzImage, unpacks it (legacy LZ4, XZ, ZSTD
 * or gzip, whichever the kernel was built with) and checks that the result is a kernel that a VMM
 * can boot through PVH. Called by `pyro-import kernel`.
 *
 * The format and the field offsets below are from Documentation/arch/x86/boot.rst of Linux. Every
 * number read from the image is checked against its size before use. The output has at most
 * LIMIT_VMLINUX_BYTES and exactly the length that the image states.
 */

#include "daemon/import/vmlinux.h"

#include <elf.h>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "proto/limits.h"

#define SETUP_SECTS    0x1f1
#define BOOT_FLAG      0x1fe
#define HEADER_MAGIC   0x202
#define BOOT_PROTOCOL  0x206
#define KERNEL_VERSION 0x20e
#define PAYLOAD_OFFSET 0x248
#define PAYLOAD_LENGTH 0x24c
#define HEADER_END     0x250

#define LZ4_LEGACY_BLOCK (8 * MIB)
#define XZ_MEMORY_MAX    (512 * MIB)

/* XEN_ELFNOTE_PHYS32_ENTRY in Xen's public/elfnote.h. */
#define NOTE_PHYS32_ENTRY 18
#define NOTES_MAX         4096

#define FIX_OTHER_KERNEL \
	"Name another kernel with kernel= in pyrod.conf: an uncompressed vmlinux or a bzImage."

struct format {
	const char *name;
	const char *magic;
	size_t magic_size;
	bool size_appended; /* the length follows the stream; a gzip stream already ends with it */
	/* Fills exactly out_n bytes or returns -EBADMSG, -ENOMEM. */
	int (*unpack)(const uint8_t *in, size_t n, uint8_t *out, size_t out_n);
};

static uint16_t le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)le16(p) | (uint32_t)le16(p + 2) << 16;
}

static int bad(struct error *err, const char *cause)
{
	return error_set(
		err, ERROR_PULL_FAILED, cause, FIX_OTHER_KERNEL, "The kernel image cannot be used");
}

/*
 * Reads the legacy frame, which liblz4 does not: magic, then {u32 size, block of at most 8 MiB}...
 */
static int unpack_lz4(const uint8_t *in, size_t n, uint8_t *out, size_t out_n)
{
	size_t done = 0;

	for (size_t at = 4; at < n;) {
		size_t room = MIN_OF(out_n - done, LZ4_LEGACY_BLOCK);
		uint32_t size;
		int r;

		if (n - at < 4)
			return -EBADMSG;
		size = le32(in + at);
		at += 4;
		if (size == 0 || size > n - at || size > INT32_MAX)
			return -EBADMSG;
		r = LZ4_decompress_safe(
			(const char *)in + at, (char *)out + done, (int)size, (int)room);
		if (r <= 0)
			return -EBADMSG;
		at += size;
		done += (size_t)r;
	}

	return done == out_n ? 0 : -EBADMSG;
}

static int unpack_xz(const uint8_t *in, size_t n, uint8_t *out, size_t out_n)
{
	uint64_t memory = XZ_MEMORY_MAX;
	size_t in_at = 0, out_at = 0;
	lzma_ret r;

	r = lzma_stream_buffer_decode(&memory, 0, NULL, in, &in_at, n, out, &out_at, out_n);
	if (r == LZMA_MEM_ERROR)
		return -ENOMEM;

	return r == LZMA_OK && out_at == out_n ? 0 : -EBADMSG;
}

static int unpack_zstd(const uint8_t *in, size_t n, uint8_t *out, size_t out_n)
{
	return ZSTD_decompress(out, out_n, in, n) == out_n ? 0 : -EBADMSG;
}

static int unpack_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t out_n)
{
	z_stream z = { .next_in = (uint8_t *)in, .avail_in = (uInt)n };
	bool ok;
	int r;

	r = inflateInit2(&z, 16 + MAX_WBITS);
	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
	z.next_out = out;
	z.avail_out = (uInt)out_n;
	ok = inflate(&z, Z_FINISH) == Z_STREAM_END && z.total_out == out_n;
	(void)inflateEnd(&z);

	return ok ? 0 : -EBADMSG;
}

static const struct format formats[] = {
	{ "LZ4", "\x02\x21\x4c\x18", 4, true, unpack_lz4 },
	{ "XZ",
		"\xfd"
		"7zXZ\0",
		6, true, unpack_xz },
	{ "ZSTD", "\x28\xb5\x2f\xfd", 4, true, unpack_zstd },
	{ "gzip", "\x1f\x8b", 2, false, unpack_gzip },
};

static const struct format *format_of(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (n >= formats[i].magic_size &&
			memcmp(p, formats[i].magic, formats[i].magic_size) == 0)
			return &formats[i];

	return NULL;
}

bool vmlinux_version_valid(const char *version)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._+~-";
	size_t n = strlen(version);

	return n > 0 && n < IMPORT_VERSION_SIZE && version[0] >= '0' && version[0] <= '9' &&
	       strspn(version, allowed) == n;
}

/* Copies the first word at p if it is a valid version. */
static void take_version(const uint8_t *p, size_t n, char ret[IMPORT_VERSION_SIZE])
{
	size_t i = 0;

	while (i < n && i < IMPORT_VERSION_SIZE - 1 && p[i] > ' ' && p[i] < 0x7f) {
		ret[i] = (char)p[i];
		i++;
	}
	ret[i] = '\0';
	if (!vmlinux_version_valid(ret))
		ret[0] = '\0';
}

static bool has_pvh_note(const uint8_t *p, size_t n)
{
	size_t at = 0;

	for (unsigned i = 0; i < NOTES_MAX && n - at >= sizeof(Elf64_Nhdr); i++) {
		size_t name_n = le32(p + at), desc_n = le32(p + at + 4), left;
		uint32_t type = le32(p + at + 8);
		const uint8_t *name = p + at + sizeof(Elf64_Nhdr);

		left = n - at - sizeof(Elf64_Nhdr);
		if (name_n > left || desc_n > left)
			return false;
		if (type == NOTE_PHYS32_ENTRY && name_n == 4 && memcmp(name, "Xen", 4) == 0 &&
			desc_n >= 4)
			return true;
		name_n = (name_n + 3) & ~(size_t)3;
		desc_n = (desc_n + 3) & ~(size_t)3;
		if (name_n > left || desc_n > left - name_n)
			return false;
		at += sizeof(Elf64_Nhdr) + name_n + desc_n;
	}

	return false;
}

int vmlinux_check(const uint8_t *elf, size_t n, struct error *err)
{
	bool load = false, pvh = false;
	Elf64_Ehdr eh;

	if (n < sizeof(eh))
		return bad(err, "It is shorter than an ELF header.");
	memcpy(&eh, elf, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return bad(err, "It is not an ELF file.");
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
		eh.e_machine != EM_X86_64)
		return bad(err, "It is not for x86-64.");
	if (eh.e_type != ET_EXEC)
		return bad(err, "It is not an executable ELF file.");
	if (eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phnum == 0 || eh.e_phoff > n ||
		eh.e_phnum > (n - eh.e_phoff) / sizeof(Elf64_Phdr))
		return bad(err, "Its program headers lie outside the file.");

	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, elf + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type != PT_LOAD && ph.p_type != PT_NOTE)
			continue;
		if (ph.p_offset > n || ph.p_filesz > n - ph.p_offset)
			return bad(err, "A segment lies outside the file.");
		if (ph.p_type == PT_LOAD)
			load = true;
		else
			pvh = pvh || has_pvh_note(elf + ph.p_offset, ph.p_filesz);
	}
	if (!load)
		return bad(err, "It has no loadable segment.");
	if (!pvh)
		return bad(err, "It has no PVH entry (CONFIG_PVH was off when it was built).");

	return 0;
}

/* Finds the banner "Linux version 6.1.0-... (...", which every kernel has in its read-only data. */
static void version_of_elf(const uint8_t *elf, size_t n, char ret[IMPORT_VERSION_SIZE])
{
	static const char banner[] = "Linux version ";
	const uint8_t *p = memmem(elf, n, banner, sizeof(banner) - 1);

	ret[0] = '\0';
	if (p) {
		p += sizeof(banner) - 1;
		take_version(p, n - (size_t)(p - elf), ret);
	}
}

static int payload_find(
	const uint8_t *image, size_t n, const uint8_t **ret, size_t *ret_n, struct error *err)
{
	size_t setup_sects, start, length;

	if (n < HEADER_END)
		return bad(err, "It is shorter than a boot header.");
	if (le16(image + BOOT_FLAG) != 0xaa55 || memcmp(image + HEADER_MAGIC, "HdrS", 4) != 0)
		return bad(err, "It is neither a bzImage nor an ELF file.");
	if (le16(image + BOOT_PROTOCOL) < 0x0208)
		return bad(err, "Its boot protocol is older than 2.08 (Linux 2.6.26).");

	setup_sects = image[SETUP_SECTS] ? image[SETUP_SECTS] : 4;
	start = (setup_sects + 1) * 512;
	length = le32(image + PAYLOAD_LENGTH);
	if (start > n || le32(image + PAYLOAD_OFFSET) > n - start)
		return bad(err, "Its payload starts outside the file.");
	start += le32(image + PAYLOAD_OFFSET);
	if (length > n - start)
		return bad(err, "Its payload ends outside the file: the file is cut off.");
	if (length < 16)
		return bad(err, "Its payload is too short to be a kernel.");
	*ret = image + start;
	*ret_n = length;

	return 0;
}

static int payload_unpack(const uint8_t *p, size_t n, struct vmlinux *ret, struct error *err)
{
	const struct format *f = format_of(p, n);
	_cleanup_free_ char *cause = NULL;
	_cleanup_free_ uint8_t *out = NULL;
	size_t out_n = le32(p + n - 4);
	int r;

	if (!f)
		return bad(err, "It is packed in a format other than LZ4, XZ, ZSTD and gzip.");
	if (out_n < sizeof(Elf64_Ehdr) || out_n > LIMIT_VMLINUX_BYTES)
		return bad(err, "It states an impossible unpacked size.");
	out = malloc(out_n);
	if (!out)
		return error_no_memory(err, "Cannot unpack the kernel");
	r = f->unpack(p, f->size_appended ? n - 4 : n, out, out_n);
	if (r == -ENOMEM)
		return error_no_memory(err, "Cannot unpack the kernel");
	if (r < 0) {
		cause = str_printf("Its %s data is damaged.", f->name);
		return bad(err, cause);
	}
	ret->data = TAKE_PTR(out);
	ret->size = out_n;

	return 0;
}

static void version_of_bzimage(const uint8_t *image, size_t n, char ret[IMPORT_VERSION_SIZE])
{
	size_t at = (size_t)le16(image + KERNEL_VERSION) + 0x200;

	ret[0] = '\0';
	if (at > 0x200 && at < n)
		take_version(image + at, n - at, ret);
}

void vmlinux_done(struct vmlinux *v)
{
	free(v->data);
	v->data = NULL;
	v->size = 0;
}

int vmlinux_extract(const uint8_t *image, size_t n, struct vmlinux *ret, struct error *err)
{
	_cleanup_(vmlinux_done) struct vmlinux v = VMLINUX_INIT;
	const uint8_t *payload = NULL;
	size_t payload_n = 0;
	int r;

	if (n >= SELFMAG && memcmp(image, ELFMAG, SELFMAG) == 0) {
		if (n > LIMIT_VMLINUX_BYTES)
			return bad(err, "It is larger than any kernel.");
		v.data = malloc(n);
		if (!v.data)
			return error_no_memory(err, "Cannot load the kernel");
		memcpy(v.data, image, n);
		v.size = n;
	} else {
		r = payload_find(image, n, &payload, &payload_n, err);
		if (r < 0)
			return r;
		r = payload_unpack(payload, payload_n, &v, err);
		if (r < 0)
			return r;
		version_of_bzimage(image, n, v.version);
	}

	r = vmlinux_check(v.data, v.size, err);
	if (r < 0)
		return r;
	if (!v.version[0])
		version_of_elf(v.data, v.size, v.version);
	*ret = v;
	v = (struct vmlinux)VMLINUX_INIT;

	return 0;
}
