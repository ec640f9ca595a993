/* SPDX-License-Identifier: MIT */
/*
 * The host's end of operations on files over a real link, with an agent at the other end of a
 * socketpair that tells the truth, lies, is old, or loses its connection. Run by `meson test file`.
 */

#include "daemon/agent/file.h"

#include <check.h>
#include <signal.h>
#include <sys/socket.h>

#define DEADLINE_USEC (20 * USEC_PER_SEC)
#define CHANNEL       9

static struct world {
	sd_event *event;
	struct link *link;
	struct file *file;
	int agent; /* owned: its end of the present connection */
	struct decoder in;
	struct frame_assembler parts;
	struct msg_hello hello;
	struct msg_file asked; /* owned: the last request */
	unsigned dials, welcomes, hellos, asks, done, failed, dead;
	bool refuse; /* a dial fails */
	struct error err;
	uint64_t size;
} w;

static int dial(_unused_ void *userdata)
{
	int pair[2];

	w.dials++;
	if (w.refuse)
		return -ECONNREFUSED;
	w.agent = fd_close(w.agent);
	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	w.agent = pair[1];
	return pair[0];
}

static int on_welcome(
	_unused_ struct link *l, _unused_ const struct msg_welcome *m, _unused_ void *userdata)
{
	w.welcomes++;
	if (w.file)
		file_on_welcome(w.file);
	return 0;
}

static int on_frame(_unused_ struct link *l, const struct frame *f, _unused_ void *userdata)
{
	ck_assert_uint_eq(f->channel, CHANNEL);
	return file_on_frame(w.file, f);
}

static void fill(_unused_ struct link *l, struct buf *out, _unused_ void *userdata)
{
	if (w.file)
		(void)file_fill(w.file, out);
}

static void on_dead(_unused_ struct link *l, const struct error *err, _unused_ void *userdata)
{
	w.dead++;
	file_fail(w.file, err);
}

static const struct link_callbacks callbacks = { dial, on_welcome, on_frame, fill, on_dead };

static void on_done(struct file *f, const struct msg_file_result *m, _unused_ void *userdata)
{
	ck_assert_ptr_eq(f, w.file);
	w.done++;
	w.size = m->size;
}

static void on_failed(struct file *f, const struct error *err, _unused_ void *userdata)
{
	ck_assert_ptr_eq(f, w.file);
	ck_assert(error_is_complete(err));
	w.failed++;
	ck_assert_int_ge(error_copy(&w.err, err), 0);
}

static const struct file_callbacks file_callbacks = { on_done, on_failed };

static void setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	w = (struct world){ .agent = -EBADF, .err = ERROR_INIT };
	ck_assert_int_ge(sd_event_new(&w.event), 0);
	decoder_init(&w.in, DECODER_SYNC, frame_sync_initial);
	frame_assembler_init(&w.parts, LIMIT_FILE_MESSAGE_BYTES);
	ck_assert_int_ge(link_new(w.event, &callbacks, NULL, DEADLINE_USEC, &w.link), 0);
}

static void teardown(void)
{
	file_free(w.file);
	link_free(w.link);
	decoder_done(&w.in);
	frame_assembler_done(&w.parts);
	msg_file_done(&w.asked);
	error_clear(&w.err);
	w.agent = fd_close(w.agent);
	w.event = sd_event_unref(w.event);
}

static void agent_take(const struct frame *f)
{
	if (f->type == FRAME_HELLO) {
		ck_assert_int_ge(msg_hello_get(f, AGENT_PROTOCOL_MAX, &w.hello), 0);
		w.hellos++;
	} else if (f->type == FRAME_FILE) {
		msg_file_done(&w.asked);
		ck_assert_uint_eq(f->channel, CHANNEL);
		ck_assert_int_ge(msg_file_get(f, AGENT_PROTOCOL_MAX, &w.asked), 0);
		w.asks++;
	}
}

/* Lets the agent decode its pending input. */
static void agent_read(void)
{
	struct frame f;
	size_t room;
	int r;

	for (;;) {
		uint8_t *p = decoder_space(&w.in, &room);
		ck_assert_ptr_nonnull(p);
		ssize_t n = w.agent >= 0 ? recv(w.agent, p, room, MSG_DONTWAIT) : -1;
		if (n <= 0)
			return;
		decoder_fed(&w.in, (size_t)n);
		while ((r = decoder_next(&w.in, &f)) != DECODER_MORE) {
			ck_assert_int_ge(r, 0);
			if (r == DECODER_RESYNC)
				frame_assembler_reset(&w.parts);
			else if (frame_assembler_add(&w.parts, &f) == 1)
				agent_take(&f);
		}
	}
}

static void until(const unsigned *count, unsigned want)
{
	for (uint64_t end = now_usec() + DEADLINE_USEC; *count < want;) {
		ck_assert_msg(now_usec() < end, "waited too long for %u of %u", *count, want);
		ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
		agent_read();
	}
}

static void say(const void *p, size_t n)
{
	ck_assert_int_eq(send(w.agent, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void greet(uint16_t version)
{
	struct msg_welcome m = { .version = version, .state = AGENT_SET_UP };
	unsigned before = w.welcomes;
	struct buf b;

	until(&w.hellos, before + 1);
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_ge(buf_append(&b, w.hello.nonce, sizeof(w.hello.nonce)), 0);
	ck_assert_int_ge(
		msg_send(&b, AGENT_PROTOCOL_MAX, welcome, FRAME_WELCOME, AGENT_CHANNEL_NONE, &m),
		0);
	say(buf_head(&b), buf_len(&b));
	buf_done(&b);
	until(&w.welcomes, before + 1);
}

static struct msg_blob copy(struct msg_blob b)
{
	uint8_t *data = malloc(b.n + 1);

	ck_assert_ptr_nonnull(data);
	if (b.n > 0)
		memcpy(data, b.data, b.n);
	return (struct msg_blob){ data, b.n };
}

/* Makes the operation and starts it. */
static int begin(struct msg_file m, struct error *err)
{
	m.path = strdup(m.path);
	m.text = copy(m.text);
	m.old_text = copy(m.old_text);
	ck_assert_int_eq(
		file_new(w.event, "ws-0123456789ab", &m, &file_callbacks, NULL, &w.file), 0);
	return file_start(w.file, w.link, CHANNEL, err);
}

static void ask(struct msg_file m)
{
	ck_assert_int_eq(begin(m, NULL), 0);
	until(&w.asks, w.asks + 1);
}

static void answer(const struct msg_file_result *m)
{
	struct msg_file_result d = *m;
	struct buf b;

	for (size_t i = 0; i < sizeof(d.id); i++)
		d.id[i] ^= w.asked.id[i]; /* a zero id of m is the right one */
	buf_init(&b, 2 * LIMIT_FILE_MESSAGE_BYTES);
	ck_assert_int_ge(
		msg_send(&b, AGENT_PROTOCOL_MAX, file_result, FRAME_FILE_DONE, CHANNEL, &d), 0);
	say(buf_head(&b), buf_len(&b));
	buf_done(&b);
}

static uint8_t text_bytes[] = "one\ntwo\n";
#define TEXT(n) \
	{ \
		text_bytes, (n) \
	}
static const struct msg_file a_list = { .op = FILE_LIST, .path = (char *)"/a" };
static const struct msg_file a_deep_list = {
	.op = FILE_LIST, .path = (char *)"/a", .flags = FILE_RECURSIVE
};
static const struct msg_file a_read = {
	.op = FILE_READ, .path = (char *)"/a", .max_bytes = 8, .max_lines = 2
};
static const struct msg_file a_write = { .op = FILE_WRITE, .path = (char *)"/a" };
static const struct msg_file an_edit = {
	.op = FILE_EDIT, .path = (char *)"/a b", .old_text = TEXT(2)
};

static struct msg_entry ordered[] = {
	{ ENTRY_DIRECTORY, 1, (char *)"a", NULL },
	{ ENTRY_DIRECTORY, 1, (char *)"a/b", NULL },
	{ ENTRY_FILE, 1, (char *)"a/b/c", NULL },
	{ ENTRY_FILE, 1, (char *)"a/x\x01", NULL },
	{ ENTRY_SYMLINK, 1, (char *)"a.b", (char *)"../../etc" },
	{ ENTRY_OTHER, 1, (char *)"\xff", NULL },
};

/* What may be true, and arrives. */
static const struct {
	const struct msg_file *m;
	struct msg_file_result d;
} truths[] = {
	{ &a_list, { .error = 0 } },
	{ &a_deep_list, { .n_entries = 6, .entries = ordered } },
	{ &a_read, { .size = 8, .content = TEXT(8), .flags = FILE_LINES, .total_lines = 2 } },
	{ &a_read, { .size = MSG_SIZE_MAX,
			   .content = TEXT(5),
			   .flags = UINT32_MAX & ~4U,
			   .total_lines = MSG_SIZE_MAX } },
	{ &a_read, { .size = 0 } },
	{ &a_write, { .size = 0 } },
	{ &an_edit, { .size = 77, .found = 1 } },
};

START_TEST(truth_arrives)
{
	greet(AGENT_PROTOCOL_MAX);
	ask(*truths[_i].m);
	ck_assert_str_eq(w.asked.path, truths[_i].m->path);
	answer(&truths[_i].d);
	until(&w.done, 1);
	ck_assert_uint_eq(w.size, truths[_i].d.size);
	answer(&truths[_i].d); /* a second one is ignored */
	ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(w.done, 1);
	ck_assert_uint_eq(w.failed, 0);
	ck_assert_uint_eq(w.dials, 1);
}
END_TEST

#define ONE(entry_type, text) \
	{ \
		.n_entries = 1, .entries = (struct msg_entry[]) \
		{ \
			{ \
				entry_type, 1, (char *)(text), \
					entry_type == ENTRY_SYMLINK ? (char *)"" : NULL \
			} \
		} \
	}
#define TWO(type_a, a, b) \
	{ \
		.n_entries = 2, .entries = (struct msg_entry[]) \
		{ \
			{ type_a, 1, (char *)(a), NULL }, \
			{ \
				ENTRY_FILE, 1, (char *)(b), NULL \
			} \
		} \
	}

/* What cannot be true: the connection ends. */
static const struct {
	const struct msg_file *m;
	struct msg_file_result d;
} lies[] = {
	{ &a_read, { .id = { 1 } } },
	{ &a_list, ONE(ENTRY_FILE, "..") },
	{ &a_list, ONE(ENTRY_FILE, ".") },
	{ &a_list, ONE(ENTRY_FILE, "/etc") },
	{ &a_list, ONE(ENTRY_DIRECTORY, "a/") },
	{ &a_list, TWO(ENTRY_DIRECTORY, "a", "a/b") },
	{ &a_list, TWO(ENTRY_FILE, "b", "a") },
	{ &a_list, TWO(ENTRY_FILE, "a", "a") },
	{ &a_list, { .content = TEXT(1), .size = 1 } },
	{ &a_deep_list, ONE(ENTRY_FILE, "a/b") },
	{ &a_deep_list, TWO(ENTRY_FILE, "a", "a/b") },
	{ &a_deep_list, TWO(ENTRY_DIRECTORY, "a", "ab/c") },
	{ &a_deep_list, TWO(ENTRY_DIRECTORY, "a", "a/../b") },
	{ &a_deep_list, TWO(ENTRY_DIRECTORY, "a", "a//b") },
	{ &a_deep_list, TWO(ENTRY_DIRECTORY, "a", "a/b/c") },
	{ &a_read, { .size = 9, .content = TEXT(9) } },
	{ &a_read, { .size = 7, .content = TEXT(8) } },
	{ &a_read, { .size = 8, .content = { (uint8_t *)"a\nb\nc", 5 } } },
	{ &a_read, { .size = 8, .content = TEXT(8), .flags = FILE_LINES, .total_lines = 1 } },
	{ &a_read, ONE(ENTRY_FILE, "a") },
	{ &a_read, { .error = EIO, .content = TEXT(1), .size = 1 } },
	{ &a_write, { .size = 1 } },
	{ &a_write, { .size = 0, .content = TEXT(1) } },
	{ &an_edit, { .found = 0 } },
	{ &an_edit, { .found = 2 } },
	{ &an_edit, { .found = 1, .n_entries = 1, .entries = ordered } },
};

/* On the next connection it is asked again, under the same id; and a truth is accepted. */
START_TEST(lies_end_the_connection)
{
	uint8_t id[16];

	greet(AGENT_PROTOCOL_MAX);
	ask(*lies[_i].m);
	memcpy(id, w.asked.id, sizeof(id));
	answer(&lies[_i].d);
	greet(AGENT_PROTOCOL_MAX);
	until(&w.asks, 2);
	ck_assert_mem_eq(w.asked.id, id, sizeof(id));
	ck_assert_uint_eq(w.done + w.failed, 0);
	answer(&(struct msg_file_result){ .found = lies[_i].m->op == FILE_EDIT });
	until(&w.done, 1);
	ck_assert_uint_eq(w.dials, 2);
}
END_TEST

/* A guest that lies for ever: a read has failed, a write may have been done. */
START_TEST(lies_for_ever)
{
	const struct msg_file *m = _i == 0 ? &a_read : &a_write;

	greet(AGENT_PROTOCOL_MAX);
	ask(*m);
	for (unsigned i = 0; w.failed == 0; i++) {
		ck_assert_uint_le(i, LINK_TRIES);
		answer(&lies[0].d);
		if (i < LINK_TRIES) {
			greet(AGENT_PROTOCOL_MAX);
			until(&w.asks, i + 2);
		} else {
			until(&w.dead, 1);
		}
	}
	ck_assert_int_eq(w.err.code, _i == 0 ? ERROR_GUEST_UNRESPONSIVE : ERROR_OUTCOME_UNKNOWN);
}
END_TEST

/* A lost connection, at each point: before the request, and after it. */
START_TEST(lost_connection)
{
	uint8_t id[16] = { 0 };

	if (_i > 0)
		greet(AGENT_PROTOCOL_MAX);
	if (_i > 1) {
		ask(an_edit);
		memcpy(id, w.asked.id, sizeof(id));
	} else {
		ck_assert_int_eq(begin(an_edit, NULL), 0);
	}
	if (_i > 0)
		w.agent = fd_close(w.agent);
	greet(AGENT_PROTOCOL_MAX);
	until(&w.asks, _i > 1 ? 2 : 1);
	if (_i > 1)
		ck_assert_mem_eq(w.asked.id, id, sizeof(id));
	answer(&(struct msg_file_result){ .found = 1 });
	until(&w.done, 1);
}
END_TEST

/* The machine ends. Before the request was sent nothing was done; a read changes nothing. */
START_TEST(machine_ends)
{
	static const struct msg_file *const of[] = { &a_write, &a_read, &a_write, &an_edit };
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_GUEST_DIED, NULL, "pyro doctor", "it ended");
	if (_i == 0) {
		ck_assert_int_eq(begin(*of[_i], NULL), 0);
	} else {
		greet(AGENT_PROTOCOL_MAX);
		ask(*of[_i]);
	}
	file_fail(w.file, &err);
	file_fail(w.file, &err);
	ck_assert_uint_eq(w.failed, 1);
	ck_assert_int_eq(w.err.code, _i < 2 ? ERROR_GUEST_DIED : ERROR_OUTCOME_UNKNOWN);
	if (_i == 3)
		ck_assert_str_eq(w.err.fix, "pyro workspace file read ws-0123456789ab '/a b'");
}
END_TEST

/* An agent of an earlier version: at once, or when it comes back as one. */
START_TEST(old_agent)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	greet(_i == 0 ? 2 : AGENT_PROTOCOL_MAX);
	if (_i == 0) {
		ck_assert_int_eq(begin(a_read, &err), -EOPNOTSUPP);
		ck_assert_str_eq(err.fix, "pyro workspace stop ws-0123456789ab && "
					  "pyro workspace start ws-0123456789ab");
		return;
	}
	ask(a_read);
	w.agent = fd_close(w.agent);
	greet(1);
	until(&w.failed, 1);
	ck_assert_int_eq(w.err.code, ERROR_UNSUPPORTED);
}
END_TEST

static const struct {
	const struct msg_file *m;
	struct msg_file_result d;
	enum error_code code;
	const char *message, *cause;
} refusals[] = {
	{ &a_read, { .error = ENOENT, .what = (char *)"open" }, ERROR_INVALID_ARGUMENT,
		"cannot read /a in ws-0123456789ab", "open: No such file or directory" },
	{ &a_read, { .error = EIO, .what = (char *)"\033[2J\xff" }, ERROR_WRONG_STATE,
		"cannot read /a in ws-0123456789ab", "\\x1b[2J\\xff: Input/output error" },
	{ &a_write, { .error = EROFS, .what = (char *)"create a file" }, ERROR_WRONG_STATE,
		"cannot write /a in ws-0123456789ab", "create a file: Read-only file system" },
	{ &a_write, { .error = EBUSY }, ERROR_WRONG_STATE, "cannot write /a in ws-0123456789ab",
		"Device or resource busy" },
	{ &a_list, { .error = 4095 }, ERROR_INVALID_ARGUMENT, "cannot list /a in ws-0123456789ab",
		"Unknown error 4095" },
	{ &a_write, { .error = ENOSPC, .what = (char *)"write" }, ERROR_NO_SPACE,
		"cannot write /a in ws-0123456789ab", "write: No space left on device" },
	{ &a_write, { .error = ETIMEDOUT, .flags = FILE_UNKNOWN }, ERROR_OUTCOME_UNKNOWN,
		"/a in ws-0123456789ab may have been written", "Connection timed out" },
	{ &a_read, { .error = ETIMEDOUT, .flags = FILE_UNKNOWN }, ERROR_GUEST_UNRESPONSIVE,
		"cannot read /a in ws-0123456789ab", "Connection timed out" },
	{ &a_read, { .error = EAGAIN }, ERROR_QUOTA_EXCEEDED, "cannot read /a in ws-0123456789ab",
		"Resource temporarily unavailable" },
	{ &an_edit, { .error = ENODATA }, ERROR_INVALID_ARGUMENT,
		"the old text does not occur in /a b", NULL },
	{ &an_edit, { .error = ENOTUNIQ, .found = 3 }, ERROR_INVALID_ARGUMENT,
		"the old text occurs 3 times in /a b", NULL },
	{ &a_read, { .error = ENODATA }, ERROR_INVALID_ARGUMENT,
		"cannot read /a in ws-0123456789ab", "No data available" },
};

START_TEST(refusal_is_explained)
{
	greet(AGENT_PROTOCOL_MAX);
	ask(*refusals[_i].m);
	answer(&refusals[_i].d);
	until(&w.failed, 1);
	ck_assert_int_eq(w.err.code, refusals[_i].code);
	ck_assert_str_eq(w.err.message, refusals[_i].message);
	if (refusals[_i].cause)
		ck_assert_str_eq(w.err.cause, refusals[_i].cause);
	ck_assert_uint_eq(w.dials, 1);
}
END_TEST

/* A path that begins like an option is none in the fix. */
START_TEST(fix_for_a_path_with_a_dash)
{
	static const struct {
		int error;
		const char *fix;
	} fixes[] = {
		{ EISDIR, "pyro workspace file list ws-0123456789ab ./-x" },
		{ EACCES, "pyro workspace exec ws-0123456789ab -- ls -la ./-x" },
	};
	struct msg_file m = a_read;

	m.path = (char *)"-x";
	greet(AGENT_PROTOCOL_MAX);
	ask(m);
	answer(&(struct msg_file_result){ .error = (uint32_t)fixes[_i].error });
	until(&w.failed, 1);
	ck_assert_str_eq(w.err.fix, fixes[_i].fix);
}
END_TEST

/* 1 MiB in either direction, in parts. */
START_TEST(largest)
{
	static uint8_t big[LIMIT_FILE_BYTES];
	struct msg_file m = a_write;

	memset(big, 0x8f, sizeof(big)); /* the first byte of SYNC */
	greet(AGENT_PROTOCOL_MAX);
	m.text = (struct msg_blob){ big, sizeof(big) };
	ask(m);
	ck_assert_uint_eq(w.asked.text.n, sizeof(big));
	ck_assert_mem_eq(w.asked.text.data, big, sizeof(big));
	answer(&(struct msg_file_result){ .size = sizeof(big) });
	until(&w.done, 1);
}
END_TEST

#ifdef PYRO_CRASH_POINTS
START_TEST(guest_that_does_not_answer)
{
	ck_assert_int_eq(setenv("PYRO_DEADLINES", "file=200", 1), 0);
	greet(AGENT_PROTOCOL_MAX);
	ask(_i == 0 ? a_read : a_write);
	file_hold(w.file, true); /* paused: it has all the time */
	uint64_t end = now_usec() + 300 * USEC_PER_MSEC;
	while (now_usec() < end)
		ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(w.failed, 0);
	file_hold(w.file, false);
	until(&w.failed, 1);
	ck_assert_int_eq(w.err.code, _i == 0 ? ERROR_GUEST_UNRESPONSIVE : ERROR_OUTCOME_UNKNOWN);
	ck_assert_uint_eq(w.dials, 1);
}
END_TEST
#endif

int main(void)
{
	Suite *s = suite_create("file");
	TCase *t = tcase_create("file");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, truth_arrives, 0, ARRAY_SIZE(truths));
	tcase_add_loop_test(t, lies_end_the_connection, 0, ARRAY_SIZE(lies));
	tcase_add_loop_test(t, lies_for_ever, 0, 2);
	tcase_add_loop_test(t, lost_connection, 0, 3);
	tcase_add_loop_test(t, machine_ends, 0, 4);
	tcase_add_loop_test(t, old_agent, 0, 2);
	tcase_add_loop_test(t, refusal_is_explained, 0, ARRAY_SIZE(refusals));
	tcase_add_loop_test(t, fix_for_a_path_with_a_dash, 0, 2);
	tcase_add_test(t, largest);
#ifdef PYRO_CRASH_POINTS
	tcase_add_loop_test(t, guest_that_does_not_answer, 0, 2);
#endif
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
