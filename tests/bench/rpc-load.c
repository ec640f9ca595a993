/* SPDX-License-Identifier: MIT */
/*
 * A client that calls as fast as it gets answers, or at a fixed pace, and reports the time of each
 * answer. The benches run it against pyrod and against the plain echo (echo.c), so that both
 * results include its own cost. One thread; each connection cycles through the list of calls by
 * itself, DEPTH at a time.
 *
 *   rpc-load [-c CONNECTIONS] [-d DEPTH] [-t SECONDS] [-i INTERVAL_USEC]
 *            (-s SOCKET | -e ECHO -n REPLY_BYTES) METHOD PARAMS [METHOD PARAMS...]
 *
 * -i: one call per INTERVAL and connection, timed from its scheduled start, so a late answer also
 * counts against the next call. Without -i the next call follows the answer. "@" in PARAMS is the
 * machine that the connection created last. Prints one JSON object: calls, per_second, bytes of the
 * longest reply; for each method its count and percentiles; for each error code its count and first
 * message. Status 1 when the server closed the connection.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 64
#define DEPTH_MAX       64
#define CALLS_MAX       64
#define ERRORS_MAX      32
#define LINE_MAX_BYTES  (4 * 1024 * 1024 + 1)
#define READ_SIZE       (64 * 1024)
#define VM_ID_SIZE      16

struct samples {
	uint32_t *usec10; /* tenths of a microsecond */
	size_t n, cap;
};

struct method {
	const char *name, *params;
	size_t same_as; /* the first of this name collects all samples */
	struct samples samples;
};

struct failure {
	char code[32], message[160];
	size_t n;
};

struct slot {
	uint64_t since; /* nanoseconds; 0: free */
	size_t method;
};

struct conn {
	int fd;
	size_t next; /* in methods */
	struct slot slots[DEPTH_MAX];
	size_t busy;
	uint64_t due; /* with an interval */
	char vm[VM_ID_SIZE];
	char *in;
	size_t n_in, cap_in;
};

static size_t arg_connections = 1, arg_depth = 1, arg_reply = 0;
static uint64_t arg_interval; /* nanoseconds */
static double arg_seconds = 1;
static const char *arg_socket, *arg_echo;

static struct method methods[CALLS_MAX];
static size_t n_methods;
static struct failure failures[ERRORS_MAX];
static size_t n_failures, longest;
static struct conn conns[CONNECTIONS_MAX];

static void die(const char *what)
{
	fprintf(stderr, "rpc-load: %s: %s\n", what, errno ? strerror(errno) : "failed");
	exit(EXIT_FAILURE);
}

static uint64_t now_nsec(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void sample(struct samples *s, uint64_t nsec)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 4096;
		s->usec10 = reallocarray(s->usec10, s->cap, sizeof(*s->usec10));
		if (!s->usec10)
			die("memory");
	}
	s->usec10[s->n++] = (uint32_t)(nsec / 100);
}

static void write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
		if (done < 0)
			die("the server takes no request");
		p += done;
		n -= (size_t)done;
	}
}

/* Returns params with "@" replaced. */
static size_t put_params(const struct conn *c, const char *params, char *p, size_t room)
{
	size_t n = 0;

	for (; *params && n + VM_ID_SIZE < room; params++) {
		if (*params != '@') {
			p[n++] = *params;
			continue;
		}
		memcpy(p + n, c->vm, strlen(c->vm));
		n += strlen(c->vm);
	}
	return n;
}

/* Appends the next call of this connection to p. */
static size_t next_call(struct conn *c, uint64_t since, char *p, size_t room)
{
	size_t slot = 0;

	while (c->slots[slot].since)
		slot++;
	const struct method *m = &methods[c->next];
	c->slots[slot] = (struct slot){ .since = since, .method = c->next };
	c->next = (c->next + 1) % n_methods;
	c->busy++;
	int n = snprintf(p, room,
		"{\"jsonrpc\":\"2.0\",\"id\":%zu,\"method\":\"%s\",\"params\":", slot, m->name);
	size_t len = (size_t)n;
	len += put_params(c, m->params, p + len, room - len - 3);
	memcpy(p + len, "}\n", 2);
	return len + 2;
}

static void ask(struct conn *c, size_t count, uint64_t since)
{
	char text[64 * 1024];
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += next_call(c, since, text + n, sizeof(text) / DEPTH_MAX);
	write_all(c->fd, text, n);
}

/* Returns the JSON string after key, without unescaping. */
static void text_after(const char *line, size_t n, const char *key, char *ret, size_t size)
{
	const char *at = memmem(line, n, key, strlen(key));
	size_t len = 0;

	if (at) {
		at += strlen(key);
		while (at + len < line + n && at[len] != '"' && len + 1 < size)
			len++;
		memcpy(ret, at, len);
	}
	ret[len] = '\0';
}

static void count_failure(const char *line, size_t n)
{
	struct failure f = { .n = 1 };
	size_t i = 0;

	text_after(line, n, "\"data\":{\"code\":\"", f.code, sizeof(f.code));
	text_after(line, n, "\"message\":\"", f.message, sizeof(f.message));
	while (i < n_failures && strcmp(failures[i].code, f.code) != 0)
		i++;
	if (i == n_failures && n_failures < ERRORS_MAX)
		failures[n_failures++] = f;
	else if (i < n_failures)
		failures[i].n++;
}

/* Handles one line of the server: an answer or a notification. */
static void take_line(struct conn *c, const char *line, size_t n, uint64_t now)
{
	static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":";
	char *end;
	struct slot *slot;

	if (n <= sizeof(head) || memcmp(line, head, sizeof(head) - 1) != 0) {
		static const char progress[] = "{\"params\":",
				  method[] = "{\"jsonrpc\":\"2.0\",\"method\":";
		errno = EBADMSG;
		if (memcmp(line, progress, sizeof(progress) - 1) != 0 &&
			memcmp(line, method, sizeof(method) - 1) != 0)
			die(line);
		return;
	}
	size_t id = strtoul(line + sizeof(head) - 1, &end, 10);
	errno = EBADMSG;
	if (end == line + sizeof(head) - 1 || id >= DEPTH_MAX || !c->slots[id].since)
		die(line);
	slot = &c->slots[id];
	struct method *m = &methods[slot->method];
	if (strncmp(end, ",\"error\":", 9) == 0)
		count_failure(line, n);
	else if (strcmp(m->name, "vm.create") == 0)
		text_after(line, n, "\"vm_id\":\"", c->vm, sizeof(c->vm));
	sample(&methods[m->same_as].samples, now - slot->since);
	slot->since = 0;
	c->busy--;
	if (n > longest)
		longest = n;
}

static bool take_input(struct conn *c)
{
	if (c->cap_in - c->n_in < READ_SIZE) {
		c->cap_in = c->cap_in ? 2 * c->cap_in : 2 * READ_SIZE;
		c->in = c->cap_in <= 2 * LINE_MAX_BYTES ? realloc(c->in, c->cap_in) : NULL;
		if (!c->in)
			die("a reply without end");
	}
	ssize_t n = recv(c->fd, c->in + c->n_in, c->cap_in - c->n_in - 1, 0);
	if (n <= 0)
		return false;
	uint64_t now = now_nsec();
	size_t from = c->n_in, at = 0;
	const char *end;
	c->n_in += (size_t)n;
	c->in[c->n_in] = '\0';
	while ((end = memchr(c->in + from, '\n', c->n_in - from))) {
		take_line(c, c->in + at, (size_t)(end - c->in) - at, now);
		from = at = (size_t)(end - c->in) + 1;
	}
	memmove(c->in, c->in + at, c->n_in - at);
	c->n_in -= at;
	return true;
}

static int dial(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(arg_socket) >= sizeof(a.sun_path))
		die("the socket's path is too long");
	memcpy(a.sun_path, arg_socket, strlen(arg_socket));
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die(arg_socket);
	return fd;
}

/* Starts the echo program with its ends of the socketpairs from descriptor 3 on. */
static pid_t start_echo(void)
{
	int theirs[CONNECTIONS_MAX];
	char count[16], reply[16];

	for (size_t i = 0; i < arg_connections; i++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			die("socketpair");
		conns[i].fd = pair[0];
		theirs[i] = fcntl(pair[1], F_DUPFD_CLOEXEC, 3 + (int)arg_connections);
		if (theirs[i] < 0)
			die("dup");
		(void)close(pair[1]);
	}
	(void)snprintf(count, sizeof(count), "%zu", arg_connections);
	(void)snprintf(reply, sizeof(reply), "%zu", arg_reply);
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		for (size_t i = 0; i < arg_connections; i++)
			if (dup2(theirs[i], 3 + (int)i) < 0)
				_exit(127);
		execl(arg_echo, arg_echo, count, reply, (char *)NULL);
		_exit(127);
	}
	for (size_t i = 0; i < arg_connections; i++)
		(void)close(theirs[i]);
	return pid;
}

static uint64_t first_due(uint64_t end)
{
	uint64_t due = end;

	for (size_t i = 0; i < arg_connections; i++)
		if (conns[i].busy < arg_depth && conns[i].due < due)
			due = conns[i].due;
	return due;
}

/* Sends the calls that are due, with an interval. */
static void ask_due(uint64_t now)
{
	for (size_t i = 0; i < arg_connections; i++) {
		struct conn *c = &conns[i];
		while (c->busy < arg_depth && c->due <= now) {
			ask(c, 1, c->due);
			c->due += arg_interval;
		}
	}
}

static void run(int epoll, uint64_t begin, uint64_t end)
{
	struct epoll_event events[CONNECTIONS_MAX];

	for (uint64_t now = begin; now < end; now = now_nsec()) {
		uint64_t until = end;
		if (arg_interval) {
			ask_due(now);
			until = first_due(end);
		}
		now = now_nsec();
		struct timespec wait = { 0 };
		if (until > now) {
			wait.tv_sec = (time_t)((until - now) / 1000000000);
			wait.tv_nsec = (long)((until - now) % 1000000000);
		}
		int n = epoll_pwait2(epoll, events, CONNECTIONS_MAX, &wait, NULL);
		if (n < 0 && errno != EINTR)
			die("epoll");
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			errno = 0;
			if (!take_input(c))
				die("the server hung up");
			if (!arg_interval)
				ask(c, arg_depth - c->busy, now_nsec());
		}
	}
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double percentile(const struct samples *s, double p)
{
	size_t i = (size_t)(p * (double)s->n);

	return s->usec10[i < s->n ? i : s->n - 1] / 10.0;
}

static void report(double seconds)
{
	size_t calls = 0;
	const char *comma = "";

	for (size_t i = 0; i < n_methods; i++)
		calls += methods[i].samples.n;
	printf("{\"calls\": %zu, \"seconds\": %.3f, \"per_second\": %.1f, \"reply_bytes\": %zu, \"methods\": {",
		calls, seconds, (double)calls / seconds, longest + 1);
	for (size_t i = 0; i < n_methods; i++) {
		struct samples *s = &methods[i].samples;
		if (s->n == 0)
			continue;
		qsort(s->usec10, s->n, sizeof(*s->usec10), compare);
		printf("%s\"%s\": {\"calls\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}",
			comma, methods[i].name, s->n, percentile(s, 0.5), percentile(s, 0.99),
			percentile(s, 0.999), percentile(s, 1));
		comma = ", ";
	}
	printf("}, \"errors\": {");
	for (size_t i = 0; i < n_failures; i++)
		printf("%s\"%s\": {\"calls\": %zu, \"first\": \"%s\"}", i ? ", " : "",
			failures[i].code, failures[i].n, failures[i].message);
	printf("}}\n");
}

static bool parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "c:d:t:i:s:e:n:")) >= 0)
		switch (c) {
		case 'c': arg_connections = strtoul(optarg, NULL, 10); break;
		case 'd': arg_depth = strtoul(optarg, NULL, 10); break;
		case 't': arg_seconds = strtod(optarg, NULL); break;
		case 'i': arg_interval = strtoull(optarg, NULL, 10) * 1000; break;
		case 's': arg_socket = optarg; break;
		case 'e': arg_echo = optarg; break;
		case 'n': arg_reply = strtoul(optarg, NULL, 10); break;
		default: return false;
		}
	for (; optind + 1 < argc && n_methods < CALLS_MAX; optind += 2) {
		size_t same = 0;
		while (same < n_methods && strcmp(methods[same].name, argv[optind]) != 0)
			same++;
		methods[n_methods++] = (struct method){
			.name = argv[optind], .params = argv[optind + 1], .same_as = same
		};
	}
	return optind == argc && n_methods > 0 && !arg_socket != !arg_echo &&
	       arg_connections >= 1 && arg_connections <= CONNECTIONS_MAX && arg_depth >= 1 &&
	       arg_depth <= DEPTH_MAX && arg_seconds > 0;
}

int main(int argc, char **argv)
{
	pid_t echo = -1;
	int epoll, status = 0;

	if (!parse(argc, argv)) {
		fprintf(stderr, "usage: see the head of tests/bench/rpc-load.c\n");
		return 2;
	}
	if (arg_echo)
		echo = start_echo();
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (size_t i = 0; i < arg_connections; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = &conns[i] };
		if (arg_socket)
			conns[i].fd = dial();
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, conns[i].fd, &e) < 0)
			die("epoll");
		conns[i].next = i % n_methods;
	}
	uint64_t begin = now_nsec(), end = begin + (uint64_t)(arg_seconds * 1e9);
	for (size_t i = 0; i < arg_connections; i++) {
		conns[i].due = begin + i * arg_interval / arg_connections;
		if (!arg_interval)
			ask(&conns[i], arg_depth, now_nsec());
	}
	run(epoll, begin, end);
	report((double)(now_nsec() - begin) / 1e9);
	for (size_t i = 0; i < arg_connections; i++)
		(void)close(conns[i].fd);
	if (echo > 0 && (waitpid(echo, &status, 0) != echo || status != 0))
		die("the echo");
	return EXIT_SUCCESS;
}
