/* SPDX-License-Identifier: MIT */
/*
 * Lists the paths that a VMM opens; all other files reach it as descriptors. Called by confine.c.
 * As traced with QEMU 7.2: its program, the loader's cache, libraries and its own modules beside
 * them, its firmware, and a few devices. systemd/pyro-vm@.service.in has the same list.
 */
#include "daemon/vmm/confine.h"

#define DEBIAN_LIBRARIES "/usr/lib/x86_64-linux-gnu"

static int add(struct confine_paths *p, enum confine_kind kind, const char *a, const char *b)
{
	int n;

	if (p->n == CONFINE_PATHS_MAX)
		return -E2BIG;
	n = snprintf(p->list[p->n].path, CONFINE_PATH_BYTES, "%s%s", a, b);
	if (n < 0 || n >= CONFINE_PATH_BYTES)
		return -ENAMETOOLONG;
	p->list[p->n++].kind = kind;
	return 0;
}

/* Adds the system's paths; Debian has a library directory for this architecture alone, others do
 * not. */
static int add_system(struct confine_paths *p)
{
	const bool debian = access(DEBIAN_LIBRARIES, F_OK) == 0;
	const struct {
		enum confine_kind kind;
		const char *path;
	} system[] = {
		{ CONFINE_LIBRARIES, debian ? DEBIAN_LIBRARIES : "/usr/lib" },
		{ CONFINE_LIBRARIES, "/usr/lib64" },
		/* links into /usr, or library directories where /usr is not merged */
		{ CONFINE_LIBRARIES, debian ? "/lib/x86_64-linux-gnu" : "/lib" },
		{ CONFINE_LIBRARIES, "/lib64" },
		{ CONFINE_DATA, "/usr/share/qemu" },
		{ CONFINE_DATA, "/usr/share/seabios" }, /* target of links in /usr/share/qemu */
		{ CONFINE_FILE, "/etc/ld.so.cache" },
		{ CONFINE_DEVICE, "/dev/null" },
		{ CONFINE_DEVICE, "/dev/urandom" },
	};
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(system); i++)
		r = add(p, system[i].kind, system[i].path, "");
	return r;
}

/* Adds what a VMM outside the system's directories has installed beside it. */
static int add_own(struct confine_paths *p, const char *program)
{
	static const char *const whole[] = { "/opt", "/nix" };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(whole); i++)
		if (startswith(program, whole[i]) && program[strlen(whole[i])] == '/') {
			p->known = true;
			return add(p, CONFINE_LIBRARIES, whole[i], "");
		}
	p->known = startswith(program, "/usr/");
	if (!startswith(program, "/usr/local/"))
		return 0;
	r = add(p, CONFINE_LIBRARIES, "/usr/local/lib", "");
	if (r >= 0)
		r = add(p, CONFINE_LIBRARIES, "/usr/local/lib64", "");
	return r < 0 ? r : add(p, CONFINE_DATA, "/usr/local/share/qemu", "");
}

int confine_paths_fill(struct confine_paths *ret, const struct confine_spec *spec)
{
	int r;

	ret->n = 0;
	r = add(ret, CONFINE_PROGRAM, spec->program, "");
	if (r >= 0)
		r = add_system(ret);
	if (r >= 0)
		r = add_own(ret, spec->program);
	if (r >= 0 && spec->kvm)
		r = add(ret, CONFINE_DEVICE, "/dev/kvm", "");
	return r;
}
