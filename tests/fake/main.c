/* SPDX-License-Identifier: MIT */
/*
 * The fake VMM's process: arguments (daemon/vmm/qemu-args.c, daemon/vmm/fake.c), control socket,
 * console, exit. See fake.h.
 *
 *   pyro-fake-vmm --version
 *   pyro-fake-vmm QEMU'S ARGUMENTS
 *   pyro-fake-vmm --fake-id UUID --memory MIB --control FD --agent FD --console FD
 *
 * What must stay true: its guest does not run before the first `cont`, as with QEMU's -S; it ends
 * with its guest, by `quit` or by a signal, and sends SHUTDOWN first, as QEMU does.
 */

#include "tests/fake/fake.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { QMP_BYTES = 64 * 1024, FULL_MSEC = 300 };
#define END_WAIT_USEC (2 * USEC_PER_SEC)

/* A socket of the VMM, with one peer at a time. */
struct channel {
	struct fake *fake; /* borrowed */
	struct source listening, peer;
	int listen_fd, conn; /* owned */
	unsigned peers;      /* accepted */
	struct buf in;
	bool qmp;
};

struct fake {
	struct loop *loop;   /* owned */
	struct serve *serve; /* owned */
	struct relay *relay; /* owned */
	struct channel qmp, console;
	struct timer end, flood;
	int agent_fd;
	enum fake_manner manner;
	bool booted, ending;
	uint64_t still_until; /* monotonic; 0: the vCPUs run */
};

static struct fake self;

struct fake *fake_self(void)
{
	return &self;
}

struct relay *fake_relay(struct fake *f)
{
	return f->relay;
}

enum fake_manner fake_manner(const struct fake *f)
{
	return f->manner;
}

void fake_tell(const char *fmt, ...)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ssize_t n = readlink("/proc/self/exe", addr.sun_path, sizeof(addr.sun_path) - 1);
	char text[256], *slash;
	va_list ap;

	slash = n > 0 ? memrchr(addr.sun_path, '/', (size_t)n) : NULL;
	if (fd < 0 || !slash ||
		(size_t)(slash - addr.sun_path) + sizeof("/observer.sock") >= sizeof(addr.sun_path))
		return;
	memcpy(slash, "/observer.sock", sizeof("/observer.sock"));
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* The observer is optional. */
	(void)sendto(fd, text, (size_t)MIN_OF(n, (ssize_t)sizeof(text)), MSG_DONTWAIT,
		(struct sockaddr *)&addr, sizeof(addr));
}

/* QMP and console */

static void say(struct channel *c, const char *fmt, ...) _printf_(2, 3);
static void say(struct channel *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->conn >= 0)
		(void)send(c->conn, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say_event(struct channel *c, const char *name, const char *data)
{
	say(c, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 1}, \"event\": \"%s\"%s%s}\r\n",
		name, data ? ", \"data\": " : "", data ? data : "");
}

static void leave(struct fake *f)
{
	say_event(&f->qmp, "SHUTDOWN", "{\"guest\": true, \"reason\": \"guest-reset\"}");
	fake_tell("end");
	loop_stop(f->loop);
}

void fake_panic(void)
{
	struct channel *c = &self.console;

	say(c, "[    0.412345] Run /init as init process\r\n\x1b[1;31mpyro-agent: the port: No such device\x1b[0m\r\n");
	say(c, "[    2.412345] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n"
	       "[    2.412399] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-41-cloud-amd64 #1\r\n"
	       "[    2.412401] Call Trace:\r\n");
	for (unsigned i = 0; i < 60; i++)
		say(c, "[    2.4125%02u]  do_group_exit+0x%x/0x90\r\n", i, i);
	say(c, "[    2.413000] Kernel Offset: disabled\r\n"
	       "[    2.413001] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100 ]---\r\n");
	leave(&self);
}

static void say_disk_full(struct channel *c)
{
	say_event(c, "BLOCK_IO_ERROR",
		"{\"device\": \"\", \"node-name\": \"own\", \"reason\": \"No space left on device\", "
		"\"operation\": \"write\", \"nospace\": true, \"action\": \"stop\"}");
	say_event(c, "STOP", NULL);
}

void fake_stand(struct fake *f, uint64_t msec)
{
	f->still_until = now_usec() + msec * USEC_PER_MSEC;
	relay_still(f->relay, true);
	say_disk_full(&f->qmp);
}

/* The first `cont` boots the guest. After one that comes too early the next write fails too. */
static void go_on(struct fake *f)
{
	say_event(&f->qmp, "RESUME", NULL);
	if (!f->booted) {
		f->booted = true;
		fake_tell("boot");
		relay_still(f->relay, false);
	} else if (f->still_until > now_usec()) {
		say_disk_full(&f->qmp);
	} else if (f->still_until > 0) {
		f->still_until = 0;
		relay_still(f->relay, false);
	}
}

static const char *run_state(const struct fake *f)
{
	return !f->booted ? "prelaunch" : f->still_until ? "io-error" : "running";
}

static void take_command(struct channel *c, json_object *o)
{
	json_object *v;
	const char *name =
		json_object_object_get_ex(o, "execute", &v) ? json_object_get_string(v) : "";
	long long id = json_object_object_get_ex(o, "id", &v) ? json_object_get_int64(v) : 0;

	if (streq(name, "query-status"))
		say(c,
			"{\"return\": {\"status\": \"%s\", \"singlestep\": false, \"running\": %s}, "
			"\"id\": %lld}\r\n",
			run_state(c->fake), streq(run_state(c->fake), "running") ? "true" : "false",
			id);
	else if (streq(name, "qmp_capabilities") || streq(name, "cont"))
		say(c, "{\"return\": {}, \"id\": %lld}\r\n", id);
	else if (!streq(name, "quit"))
		say(c,
			"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"not in the fake\"}, "
			"\"id\": %lld}\r\n",
			id);
	if (streq(name, "cont"))
		go_on(c->fake);
	if (streq(name, "quit"))
		leave(c->fake);
}

static void take_lines(struct channel *c)
{
	const uint8_t *end;

	while (buf_len(&c->in) > 0 && (end = memchr(buf_head(&c->in), '\n', buf_len(&c->in)))) {
		size_t n = (size_t)(end - buf_head(&c->in)) + 1;
		_cleanup_free_ char *line = strndup((const char *)buf_head(&c->in), n);
		json_object *o = line ? json_tokener_parse(line) : NULL;

		if (o)
			take_command(c, o);
		json_object_put(o);
		buf_consume(&c->in, n);
	}
}

static void take_peer(struct channel *c);

static void on_peer(struct source *s, uint32_t events _unused_)
{
	struct channel *c = s->userdata;
	ssize_t n;

	while ((n = buf_read_fd(&c->in, c->conn, QMP_BYTES - buf_len(&c->in))) > 0) {
		if (c->qmp)
			take_lines(c);
		else
			buf_clear(&c->in);
		if (buf_len(&c->in) == QMP_BYTES)
			break;
	}
	if (n == -EAGAIN)
		return;
	loop_unwatch(c->fake->loop, &c->peer);
	c->conn = fd_close(c->conn);
	buf_clear(&c->in);
	take_peer(c);
}

static void take_peer(struct channel *c)
{
	if (c->conn >= 0)
		return;
	c->conn = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (c->conn < 0)
		return;
	c->peer = (struct source){ .on_event = on_peer, .userdata = c };
	if (loop_watch(c->fake->loop, &c->peer, c->conn, EPOLLIN | EPOLLRDHUP) < 0)
		abort();
	c->peers++;
	if (c->qmp && c->fake->manner != MANNER_QMP_SILENT && c->fake->manner != MANNER_QMP_NOISE &&
		(c->fake->manner != MANNER_QMP_LATE || c->peers > 1))
		say(c, "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 0}, "
		       "\"package\": \"fake\"}, \"capabilities\": [\"oob\"]}}\r\n");
}

static void on_listening(struct source *s, uint32_t events _unused_)
{
	take_peer(s->userdata);
}

static int open_channel(struct fake *f, struct channel *c, bool qmp)
{
	c->fake = f;
	c->conn = -EBADF;
	c->qmp = qmp;
	buf_init(&c->in, QMP_BYTES);
	c->listening = (struct source){ .on_event = on_listening, .userdata = c };
	if (fcntl(c->listen_fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -errno;
	return loop_watch(f->loop, &c->listening, c->listen_fd, EPOLLIN);
}

static void on_flood(struct timer *t)
{
	struct fake *f = t->userdata;
	struct channel *c = f->manner == MANNER_CONSOLE ? &f->console : &f->qmp;
	char noise[32 * 1024];

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)(' ' + i % 90);
	while (c->conn >= 0 && send(c->conn, noise, sizeof(noise), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	loop_arm(f->loop, t, now_usec() + USEC_PER_MSEC);
}

/* The guest */

static int on_setup(
	const struct msg_setup *m _unused_, int *ret_cgroup_fd, char **ret_what, void *userdata)
{
	struct fake *f = userdata;

	*ret_cgroup_fd = -EBADF;
	fake_tell("setup");
	if (f->manner == MANNER_MUTE)
		relay_mute(f->relay);
	if (f->manner == MANNER_FULL)
		fake_stand(f, FULL_MSEC);
	if (f->manner != MANNER_REFUSES)
		return 0;
	*ret_what = strdup("refuse\n\033[31mwith all its might");
	return -EIO;
}

static void on_end(struct timer *t)
{
	leave(t->userdata);
}

void fake_end(struct fake *f, enum bye_reason reason)
{
	if (f->ending)
		return;
	f->ending = true;
	f->end = (struct timer){ .on_timer = on_end, .userdata = f };
	loop_arm(f->loop, &f->end, now_usec() + END_WAIT_USEC);
	serve_bye(f->serve, reason, NULL);
}

static void on_shutdown(void *userdata)
{
	fake_end(userdata, BYE_SHUTDOWN);
}

static void on_bye_sent(void *userdata)
{
	struct fake *f = userdata;

	if (relay_drained(f->relay))
		leave(f);
}

static void on_hangup(int r, void *userdata _unused_)
{
	fake_tell("fault %d", r);
}

static const struct serve_hooks hooks = {
	.setup = on_setup,
	.on_shutdown = on_shutdown,
	.on_bye_sent = on_bye_sent,
	.on_hangup = on_hangup,
};

static int start_agent(struct fake *f)
{
	struct relay_params rp = { .loop = f->loop, .manner = f->manner };
	struct serve_params sp = {
		.loop = f->loop,
		.workspace = "/workspace",
		.version_max = f->manner == MANNER_OLD ? 1 : 0,
		.hooks = &hooks,
		.userdata = f,
	};
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	rp.listen_fd = f->agent_fd;
	rp.port = pair[0];
	r = relay_new(&rp, &f->relay);
	if (r < 0)
		return r;
	relay_still(f->relay, true);
	sp.fd = pair[1];
	return serve_new(&sp, &f->serve);
}

/* "socket,id=qmp,fd=3,server=on,wait=off" */
static void take_chardev(struct fake *f, const char *text)
{
	const char *fd = strstr(text, ",fd=");
	int n = fd ? atoi(fd + strlen(",fd=")) : -EBADF;

	if (strstr(text, "id=qmp,"))
		f->qmp.listen_fd = n;
	else if (strstr(text, "id=console,"))
		f->console.listen_fd = n;
	else if (strstr(text, "id=agent,"))
		f->agent_fd = n;
}

static int take_arguments(struct fake *f, int argc, char **argv)
{
	bool waits = false;

	f->qmp.listen_fd = f->console.listen_fd = f->agent_fd = -EBADF;
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (streq(argv[i], "-chardev"))
			take_chardev(f, value);
		else if (streq(argv[i], "--control"))
			f->qmp.listen_fd = atoi(value);
		else if (streq(argv[i], "--agent"))
			f->agent_fd = atoi(value);
		else if (streq(argv[i], "--console"))
			f->console.listen_fd = atoi(value);
		else if (streq(argv[i], "-m") || streq(argv[i], "--memory"))
			f->manner = (enum fake_manner)(atoi(value) - FAKE_MEM_MIB);
		waits = waits || streq(argv[i], "-S") || streq(argv[i], "--fake-id");
	}
	if (!waits)
		return -EINVAL; /* pyrod boots it by `cont` */
	if (f->manner < MANNER_GOOD || f->manner >= MANNER_MAX)
		f->manner = MANNER_GOOD;
	return f->qmp.listen_fd < 0 || f->console.listen_fd < 0 || f->agent_fd < 0 ? -EINVAL : 0;
}

static int run(struct fake *f)
{
	int r = loop_new(&f->loop);

	if (r >= 0)
		r = signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -errno : 0;
	if (r >= 0)
		r = open_channel(f, &f->qmp, true);
	if (r >= 0)
		r = open_channel(f, &f->console, false);
	if (r >= 0)
		r = start_agent(f);
	if (r >= 0 && (f->manner == MANNER_CONSOLE || f->manner == MANNER_QMP_NOISE)) {
		f->flood = (struct timer){ .on_timer = on_flood, .userdata = f };
		loop_arm(f->loop, &f->flood, now_usec());
	}
	return r < 0 ? r : loop_run(f->loop);
}

int main(int argc, char **argv)
{
	int r;

	if (argc == 2 && streq(argv[1], "--version")) {
		(void)puts("QEMU emulator version 0.0.0 (fake)");
		return EXIT_SUCCESS;
	}
	if (argc == 2 && streq(argv[1], "--attacks")) {
		attack_list(stdout);
		return EXIT_SUCCESS;
	}
	r = take_arguments(&self, argc, argv);
	if (r >= 0)
		r = run(&self);
	if (r < 0)
		(void)fprintf(stderr, "pyro-fake-vmm: %s\n", strerror(-r));
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
