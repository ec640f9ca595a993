/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/agent.c. In each version each message is unchanged after encoding and decoding, is
 * refused when cut at any byte, and ignores the trailing fields of a newer peer. A mutated message
 * is refused or within its ranges. With sanitizers these tests also show that a refusal leaks
 * nothing.
 */

#include "proto/agent.h"
#include "tests/unit/recorded.h"
#include <check.h>

static char *env_of_start[] = { (char *)"A=1", (char *)"EMPTY=", (char *)"C=x=y", NULL };
static struct msg_held held_two[] = {
	{ "ex-0123456789ab", 1, 1, 5, { 0, 300, 7, 0 }, { 0, 44, 7, 0 }, 1 },
	{ "ex-ffffffffffff", UINT32_MAX, 0, 0, { 0 }, { 0 }, 0 },
};

static const struct msg_hello a_hello = { 1, 3, { 9, 8, 7 } };
static const struct msg_welcome a_welcome = { 1, AGENT_SET_UP, { 1 }, { 2 }, 2, held_two };
static struct msg_setup a_setup = { { 1 }, 1700000000000000, { 3 }, { 0 }, (char *)"vm-1" };
static const struct msg_start a_start = {
	.exec_id = "ex-0123456789ab",
	.flags = START_STDIN | START_LOGIN,
	.command = (char *)"echo \xff\n'hi'",
	.cwd = (char *)"/workspace",
	.user = (char *)"root",
	.n_env = 3,
	.env = env_of_start,
	.timeout_usec = UINT64_MAX,
	.limit = { 0, STREAM_WINDOW, STREAM_WINDOW, 0 },
};
static const struct msg_kill a_kill = { 64, 1 };
static const struct msg_resume a_resume = { { 0, 1, 2, 3 }, { 4, 5, 6, UINT64_MAX } };
static const struct msg_result a_result = { ENOENT, (char *)"chdir /nowhere" };
static const struct msg_exit a_exit = { 255, 0, 1, 2000000, { 1, 2, 3, 4 }, true,
	{ ENDED_LEFT | ENDED_DISK_FULL, 2569 } };
static const struct msg_bye a_bye = { BYE_ERROR, NULL };
static uint8_t some_bytes[] = { 'a', 0, 0xff, '\n' };
static const struct msg_file a_file = {
	.id = { 7, 0, 9 },
	.op = FILE_EDIT,
	.flags = FILE_REPLACE_ALL,
	.path = (char *)"src/\xff.c",
	.text = { some_bytes, 2 },
	.old_text = { some_bytes, 4 },
};
static struct msg_entry two_entries[] = {
	{ ENTRY_DIRECTORY, 4096, (char *)"a", NULL },
	{ ENTRY_SYMLINK, MSG_SIZE_MAX, (char *)"a/\x01\xff", (char *)"" },
};
static const struct msg_file_result a_file_result = {
	.id = { 1, 2, 3 },
	.error = 0,
	.what = NULL,
	.flags = UINT32_MAX,
	.size = MSG_SIZE_MAX,
	.total_lines = MSG_SIZE_MAX,
	.found = UINT32_MAX,
	.content = { some_bytes, 4 },
	.n_entries = 2,
	.entries = two_entries,
};

#define FRAME_OF(b) ((struct frame){ .payload = buf_head(b), .length = (uint32_t)buf_len(b) })

/* Encodes, decodes and encodes again: the same bytes. Every cut is refused, and trailing bytes are
 * skipped. */
#define CHECK_ROUND_TRIP(name) \
	do { \
		struct buf b, again; \
		struct msg_##name m; \
		buf_init(&b, LIMIT_MESSAGE_BYTES); \
		buf_init(&again, LIMIT_MESSAGE_BYTES); \
		ck_assert_int_eq(msg_##name##_put(&b, version, &a_##name), 0); \
		if (buf_len(&b) == 0) \
			break; /* not a message of this version */ \
		struct frame f = FRAME_OF(&b); \
		for (f.length = 0; f.length < buf_len(&b); f.length++) \
			ck_assert_int_eq(msg_##name##_get(&f, version, &m), -EBADMSG); \
		for (int more = 0; more < 2; more++) { \
			ck_assert_int_eq(msg_##name##_get(&f, version, &m), 0); \
			ck_assert_int_eq(msg_##name##_put(&again, version, &m), 0); \
			ck_assert_uint_eq(buf_len(&b) - 600 * more, buf_len(&again)); \
			ck_assert_mem_eq(buf_head(&b), buf_head(&again), buf_len(&again)); \
			msg_##name##_done(&m); \
			buf_clear(&again); \
			ck_assert_int_eq(buf_append(&b, more_fields, sizeof(more_fields)), 0); \
			f = FRAME_OF(&b); \
		} \
		buf_done(&b); \
		buf_done(&again); \
	} while (0);

static const uint8_t more_fields[600] = { 0xff };

/* _put accepts what _get accepts: no value is out of range. */
#define CHECK_MUTATIONS(name) \
	do { \
		struct buf b, again; \
		unsigned seed = 7; \
		buf_init(&b, LIMIT_MESSAGE_BYTES); \
		buf_init(&again, LIMIT_MESSAGE_BYTES); \
		ck_assert_int_eq(msg_##name##_put(&b, version, &a_##name), 0); \
		if (buf_len(&b) == 0) \
			break; \
		struct frame f = FRAME_OF(&b); \
		uint8_t *copy = malloc(f.length); \
		for (int i = 0; i < 20000; i++) { \
			struct msg_##name m; \
			memcpy(copy, buf_head(&b), f.length); \
			for (int k = rand_r(&seed) % 4; k >= 0; k--) \
				copy[(unsigned)rand_r(&seed) % f.length] = (uint8_t)rand_r(&seed); \
			f.payload = copy; \
			if (msg_##name##_get(&f, version, &m) < 0) \
				continue; \
			ck_assert_int_eq(msg_##name##_put(&again, version, &m), 0); \
			buf_clear(&again); \
			msg_##name##_done(&m); \
		} \
		free(copy); \
		buf_done(&b); \
		buf_done(&again); \
	} while (0);

START_TEST(round_trips)
{
	uint16_t version = (uint16_t)_i;

	memcpy(a_setup.sync, frame_sync_initial, SYNC_SIZE);
	AGENT_MESSAGES(CHECK_ROUND_TRIP)
}
END_TEST

START_TEST(mutations)
{
	uint16_t version = (uint16_t)_i;

	memcpy(a_setup.sync, frame_sync_initial, SYNC_SIZE);
	AGENT_MESSAGES(CHECK_MUTATIONS)
}
END_TEST

/* EXIT has new fields since version 2: from an older peer they are zero, to an older peer they are
 * not sent. */
START_TEST(fields_of_a_version)
{
	struct msg_exit m;
	struct buf b;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(msg_exit_put(&b, 1, &a_exit), 0);
	ck_assert_uint_eq(buf_len(&b), 3 + 8 + 4 * 8);
	struct frame f = FRAME_OF(&b);
	ck_assert_int_eq(msg_exit_get(&f, 2, &m), -EBADMSG);
	ck_assert_int_eq(msg_exit_get(&f, 1, &m), 0);
	ck_assert(!m.tells && m.ended.flags == 0 && m.ended.pids_max == 0);
	buf_clear(&b);
	ck_assert_int_eq(msg_exit_put(&b, 2, &a_exit), 0);
	f = FRAME_OF(&b);
	ck_assert_int_eq(msg_exit_get(&f, 2, &m), 0);
	ck_assert(m.tells && m.ended.flags == a_exit.ended.flags && m.ended.pids_max == 2569);
	ck_assert_int_eq(msg_exit_get(&f, 1, &m), 0);
	ck_assert(!m.tells && m.ended.flags == 0 && m.code == 255);
	ck_assert_int_eq(msg_exit_get(&f, 0, &m), -EINVAL); /* no version agreed on yet */
	ck_assert_int_eq(msg_exit_put(&b, 0, &a_exit), -EINVAL);
	buf_done(&b);
}
END_TEST

/* Each held command has one more byte since version 3; from an older peer its input is open. */
START_TEST(held_of_a_version)
{
	static const size_t one = 16 - 1 + 4 + 1 + 8 + 2 * 4 * 8, head = 2 + 1 + 16 + 16 + 4;

	for (uint16_t version = 1; version <= AGENT_PROTOCOL_MAX; version++) {
		struct msg_welcome welcome = a_welcome, w;
		struct buf b;

		buf_init(&b, LIMIT_MESSAGE_BYTES);
		welcome.version = version;
		ck_assert_int_eq(msg_welcome_put(&b, AGENT_PROTOCOL_MAX, &welcome), 0);
		ck_assert_uint_eq(buf_len(&b), head + 2 * (one + (version >= 3)));
		struct frame f = FRAME_OF(&b);
		ck_assert_int_eq(msg_welcome_get(&f, AGENT_PROTOCOL_MAX, &w), 0);
		ck_assert_uint_eq(w.n_held, 2);
		ck_assert_uint_eq(w.held[0].stdin_ended, version >= 3);
		ck_assert_uint_eq(w.held[1].stdin_ended, 0);
		ck_assert_uint_eq(w.held[1].channel, UINT32_MAX);
		msg_welcome_done(&w);
		buf_done(&b);
	}
}
END_TEST

/* HELLO and WELCOME come before a version is agreed on, so those of newer and older peers are
 * read. */
START_TEST(greetings_say_their_version)
{
	struct msg_hello hello = { 1, AGENT_PROTOCOL_MAX + 7, { 1 } }, h;
	struct msg_welcome welcome = { .version = AGENT_PROTOCOL_MAX + 7,
		.n_held = 1,
		.held = held_two },
			   w;
	struct frame f;
	struct buf b;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(msg_hello_put(&b, AGENT_PROTOCOL_MAX + 7, &hello), 0);
	ck_assert_int_eq(buf_append(&b, more_fields, sizeof(more_fields)), 0);
	f = FRAME_OF(&b);
	ck_assert_int_eq(msg_hello_get(&f, AGENT_PROTOCOL_MAX, &h), 0);
	ck_assert_uint_eq(h.version_max, AGENT_PROTOCOL_MAX + 7);
	buf_clear(&b);
	ck_assert_int_eq(msg_welcome_put(&b, AGENT_PROTOCOL_MAX + 7, &welcome), 0);
	ck_assert_int_eq(buf_append(&b, more_fields, sizeof(more_fields)), 0);
	f = FRAME_OF(&b);
	ck_assert_int_eq(msg_welcome_get(&f, AGENT_PROTOCOL_MAX, &w), 0);
	ck_assert_uint_eq(w.version, AGENT_PROTOCOL_MAX + 7);
	ck_assert_str_eq(w.held[0].exec_id, held_two[0].exec_id);
	msg_welcome_done(&w);
	buf_done(&b);
}
END_TEST

START_TEST(frames_of_a_version)
{
	struct buf b;

	ck_assert(!agent_knows(1, FRAME_LOGIN) && agent_knows(2, FRAME_LOGIN));
	ck_assert(!agent_knows(2, FRAME_FILE) && agent_knows(3, FRAME_FILE));
	ck_assert(!agent_knows(2, FRAME_FILE_DONE) && agent_knows(3, FRAME_FILE_DONE));
	ck_assert(agent_knows(1, FRAME_EXIT) && agent_knows(UINT16_MAX, FRAME_EXIT));
	for (unsigned type = 0; type <= UINT16_MAX; type++)
		ck_assert(!agent_knows(0, (uint16_t)type));             /* none before WELCOME */
	ck_assert(!agent_knows(1, 37) && !agent_knows(UINT16_MAX, 37)); /* never used again */
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(msg_send(&b, 0, exit, FRAME_EXIT, 1, &a_exit), -EPROTONOSUPPORT);
	ck_assert_int_eq(msg_send(&b, 1, exit, 37, 1, &a_exit), -EPROTONOSUPPORT);
	ck_assert_uint_eq(buf_len(&b), 0);
	buf_done(&b);
}
END_TEST

START_TEST(fields_arrive)
{
	struct buf b;
	struct msg_start m;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(msg_start_put(&b, AGENT_PROTOCOL_MAX, &a_start), 0);
	struct frame f = FRAME_OF(&b);
	ck_assert_int_eq(msg_start_get(&f, AGENT_PROTOCOL_MAX, &m), 0);
	ck_assert_str_eq(m.exec_id, a_start.exec_id);
	ck_assert_str_eq(m.command, a_start.command);
	ck_assert_str_eq(m.cwd, a_start.cwd);
	ck_assert_uint_eq(m.n_env, 3);
	ck_assert_str_eq(m.env[2], "C=x=y");
	ck_assert_ptr_null(m.env[3]);
	ck_assert_uint_eq(m.timeout_usec, UINT64_MAX);
	ck_assert_uint_eq(m.limit[STREAM_STDERR], STREAM_WINDOW);
	msg_start_done(&m);
	msg_start_done(&m); /* empty now */
	buf_done(&b);
}
END_TEST

static int put_start(const struct msg_start *m)
{
	struct buf b;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	int r = msg_start_put(&b, AGENT_PROTOCOL_MAX, m);
	buf_done(&b);
	return r;
}

START_TEST(start_ranges)
{
	struct msg_start m = a_start;
	char *text = malloc(LIMIT_COMMAND_BYTES + 2);

	memset(text, 'x', LIMIT_COMMAND_BYTES + 1);
	text[LIMIT_COMMAND_BYTES + 1] = '\0';
	m.command = text;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	text[LIMIT_COMMAND_BYTES] = '\0';
	ck_assert_int_eq(put_start(&m), 0);
	m.command = (char *)"";
	ck_assert_int_eq(put_start(&m), -EINVAL);
	m.command = NULL;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	static const char *const ids[] = { "ex-0123456789aB", "vm-0123456789ab", "ex-0123456789a",
		"ex-0123456789/a", "" };
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		m = a_start;
		memset(m.exec_id, 0, sizeof(m.exec_id));
		memcpy(m.exec_id, ids[i], strlen(ids[i]));
		ck_assert_int_eq(put_start(&m), -EINVAL);
	}
	m = a_start;
	m.flags = 1 << 3;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	char *bad[] = { (char *)"=x" };
	m = a_start;
	m.env = bad;
	m.n_env = 1;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	bad[0] = (char *)"x";
	ck_assert_int_eq(put_start(&m), -EINVAL);
	free(text);
}
END_TEST

START_TEST(start_environment_limits)
{
	struct msg_start m = a_start, back;
	char **env = calloc(LIMIT_ENV_COUNT + 2, sizeof(*env));
	char entry[LIMIT_ENV_BYTES / LIMIT_ENV_COUNT];
	struct buf b;

	memset(entry, 'e', sizeof(entry));
	entry[1] = '=';
	entry[sizeof(entry) - 1] = '\0';
	for (size_t i = 0; i <= LIMIT_ENV_COUNT; i++)
		env[i] = entry;
	m.env = env;
	m.n_env = LIMIT_ENV_COUNT + 1;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	m.n_env = LIMIT_ENV_COUNT;
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(
		msg_start_put(&b, AGENT_PROTOCOL_MAX, &m), 0); /* exactly LIMIT_ENV_BYTES */
	struct frame f = FRAME_OF(&b);
	ck_assert_int_eq(msg_start_get(&f, AGENT_PROTOCOL_MAX, &back), 0);
	msg_start_done(&back);
	char longer[sizeof(entry) + 1];
	memcpy(longer, entry, sizeof(entry));
	longer[sizeof(entry) - 1] = 'e';
	longer[sizeof(entry)] = '\0';
	env[0] = longer;
	ck_assert_int_eq(put_start(&m), -EINVAL);
	/* The same from a hostile peer: a count without entries. */
	m = a_start;
	m.n_env = 0;
	buf_clear(&b);
	ck_assert_int_eq(msg_start_put(&b, AGENT_PROTOCOL_MAX, &m), 0);
	uint8_t *count = b.data + b.end - 8 * (STREAM_MAX + 1) - 4;
	memset(count, 0xff, 4);
	f = FRAME_OF(&b);
	ck_assert_int_eq(msg_start_get(&f, AGENT_PROTOCOL_MAX, &back), -EBADMSG);
	buf_done(&b);
	free(env);
}
END_TEST

START_TEST(other_ranges)
{
	struct buf b;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(msg_kill_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_kill){ 0, 0 }), -EINVAL);
	ck_assert_int_eq(
		msg_kill_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_kill){ 65, 0 }), -EINVAL);
	ck_assert_int_eq(msg_kill_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_kill){ 9, 2 }), -EINVAL);
	ck_assert_int_eq(
		msg_hello_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_hello){ 2, 1, { 0 } }), -EINVAL);
	ck_assert_int_eq(
		msg_hello_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_hello){ 0, 1, { 0 } }), -EINVAL);
	ck_assert_int_eq(
		msg_bye_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_bye){ BYE_ERROR + 1, NULL }),
		-EINVAL);
	ck_assert_int_eq(msg_result_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_result){ 4096, NULL }),
		-EINVAL);
	struct msg_exit e = a_exit;
	e.signal = 65;
	ck_assert_int_eq(msg_exit_put(&b, AGENT_PROTOCOL_MAX, &e), -EINVAL);
	struct msg_welcome w = a_welcome;
	w.n_held = LIMIT_AGENT_EXECS + 1;
	ck_assert_int_eq(msg_welcome_put(&b, AGENT_PROTOCOL_MAX, &w), -EINVAL);
	struct msg_held gap = held_two[0];
	gap.kept[1] = gap.produced[1] + 1;
	w.n_held = 1;
	w.held = &gap;
	ck_assert_int_eq(msg_welcome_put(&b, AGENT_PROTOCOL_MAX, &w), -EINVAL);
	gap = held_two[0];
	gap.stdin_ended = 2;
	w.version = 3;
	ck_assert_int_eq(msg_welcome_put(&b, AGENT_PROTOCOL_MAX, &w), -EINVAL);
	static const char *const names[] = { "", "A", "a.b", "a b",
		"0123456789012345678901234567890123456789012345678901234567890123" };
	struct msg_setup s = a_setup;
	memcpy(s.sync, frame_sync_initial, SYNC_SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		s.hostname = (char *)(uintptr_t)names[i];
		ck_assert_int_eq(msg_setup_put(&b, AGENT_PROTOCOL_MAX, &s), -EINVAL);
	}
	s.hostname = (char *)"ok";
	s.sync[31] = 0;
	ck_assert_int_eq(msg_setup_put(&b, AGENT_PROTOCOL_MAX, &s), -EINVAL);
	buf_done(&b);
}
END_TEST

/* Each change makes a valid request or answer invalid. */
#define REFUSED(message, base, change) \
	do { \
		struct msg_##message m = base; \
		change; \
		ck_assert_int_eq(msg_##message##_put(&b, AGENT_PROTOCOL_MAX, &m), -EINVAL); \
	} while (0)

START_TEST(file_ranges)
{
	static uint8_t big[LIMIT_FILE_BYTES + 1];
	static char path[MSG_PATH_MAX + 2];
	static const struct msg_file list = { .op = FILE_LIST, .path = (char *)"." };
	static const struct msg_file read = { .op = FILE_READ, .path = path, .max_bytes = 1 };
	static const struct msg_file write = { .op = FILE_WRITE, .path = (char *)"." };
	struct msg_file one = read;
	struct buf b;

	memset(path, 'p', MSG_PATH_MAX);
	buf_init(&b, LIMIT_FILE_MESSAGE_BYTES);
	REFUSED(file, a_file, m.op = FILE_EDIT + 1);
	REFUSED(file, a_file, m.flags = FILE_RECURSIVE);
	REFUSED(file, a_file, m.path = (char *)"");
	REFUSED(file, a_file, m.path = NULL);
	REFUSED(file, a_file, m.max_bytes = 1);
	REFUSED(file, a_file, m.start_line = 1);
	REFUSED(file, a_file, m.max_lines = 1);
	REFUSED(file, a_file, m.old_text.n = 0);
	REFUSED(file, a_file, m.text = ((struct msg_blob){ big, LIMIT_FILE_BYTES - 3 }));
	REFUSED(file, a_file, m.text.data = NULL);
	REFUSED(file, list, m.flags = FILE_REPLACE_ALL);
	REFUSED(file, list, m.text = a_file.text);
	REFUSED(file, write, m.old_text = a_file.old_text);
	REFUSED(file, write, m.text = ((struct msg_blob){ big, LIMIT_FILE_BYTES + 1 }));
	REFUSED(file, read, m.max_bytes = 0);
	REFUSED(file, read, m.max_bytes = LIMIT_FILE_BYTES + 1);
	REFUSED(file, read, m.text = a_file.text);
	one.max_bytes = LIMIT_FILE_BYTES;
	ck_assert_int_eq(msg_file_put(&b, AGENT_PROTOCOL_MAX, &one), 0);
	path[MSG_PATH_MAX] = 'p';
	ck_assert_int_eq(msg_file_put(&b, AGENT_PROTOCOL_MAX, &one), -EINVAL);
	one = write;
	one.text = (struct msg_blob){ big, LIMIT_FILE_BYTES };
	buf_clear(&b);
	ck_assert_int_eq(msg_file_put(&b, AGENT_PROTOCOL_MAX, &one), 0);
	buf_done(&b);
}
END_TEST

START_TEST(file_result_ranges)
{
	static uint8_t big[LIMIT_FILE_BYTES + 1];
	struct msg_file_result back;
	struct msg_entry e;
	struct frame f;
	struct buf b;

	buf_init(&b, LIMIT_FILE_MESSAGE_BYTES);
	REFUSED(file_result, a_file_result, m.error = 4096);
	REFUSED(file_result, a_file_result, m.size++);
	REFUSED(file_result, a_file_result, m.total_lines++);
	REFUSED(file_result, a_file_result, m.n_entries = LIMIT_FILE_ENTRIES + 1);
	REFUSED(file_result, a_file_result,
		m.content = ((struct msg_blob){ big, LIMIT_FILE_BYTES + 1 }));
#define ENTRY_REFUSED(change) \
	REFUSED(file_result, a_file_result, e = two_entries[1]; change; m.entries = &e; \
		m.n_entries = 1)
	ENTRY_REFUSED(e.type = ENTRY_OTHER + 1);
	ENTRY_REFUSED(e.type = ENTRY_FILE); /* with a target */
	ENTRY_REFUSED(e.target = NULL);
	ENTRY_REFUSED(e.path = NULL);
	ENTRY_REFUSED(e.path = (char *)"");
	ENTRY_REFUSED(e.size++);
	/* From a hostile peer: more entries or content than bytes follow. */
	buf_clear(&b);
	e = two_entries[0];
	struct msg_file_result one = { .n_entries = 1, .entries = &e };
	ck_assert_int_eq(msg_file_result_put(&b, AGENT_PROTOCOL_MAX, &one), 0);
	size_t entry = 1 + 8 + 4 + 1 + 4;
	for (size_t back_by = 4; back_by <= 8; back_by += 4) {
		memset(b.data + b.end - entry - back_by, 0xff, 3);
		f = FRAME_OF(&b);
		ck_assert_int_eq(msg_file_result_get(&f, AGENT_PROTOCOL_MAX, &back), -EBADMSG);
	}
	buf_done(&b);
}
END_TEST

START_TEST(paths_in_order)
{
	static const char *const paths[] = { "a", "a/\x01", "a/b", "a/b/c", "a\x01", "a.b", "ab",
		"b", "\xff" };

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		for (size_t k = 0; k < ARRAY_SIZE(paths); k++) {
			int r = msg_path_compare(paths[i], paths[k]);
			ck_assert_int_eq((r > 0) - (r < 0), (i > k) - (i < k));
		}
}
END_TEST

START_TEST(long_what_is_cut)
{
	char what[5000];
	struct buf b;
	struct msg_result m;

	memset(what, 'w', sizeof(what));
	what[sizeof(what) - 1] = '\0';
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(
		msg_result_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_result){ 1, what }), 0);
	struct frame f = FRAME_OF(&b);
	ck_assert_int_eq(msg_result_get(&f, AGENT_PROTOCOL_MAX, &m), 0);
	ck_assert_uint_eq(strlen(m.what), MSG_WHAT_MAX);
	msg_result_done(&m);
	buf_done(&b);
}
END_TEST

START_TEST(long_what_is_cut_between_characters)
{
	char what[2 * MSG_WHAT_MAX + 2] = "a";
	struct buf b;
	struct msg_bye m;

	for (size_t i = 0; i < MSG_WHAT_MAX; i++)
		memcpy(what + 1 + 2 * i, "\u00e9", 3);
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_eq(
		msg_bye_put(&b, AGENT_PROTOCOL_MAX, &(struct msg_bye){ BYE_SHUTDOWN, what }), 0);
	struct frame f = FRAME_OF(&b);
	ck_assert_int_eq(msg_bye_get(&f, AGENT_PROTOCOL_MAX, &m), 0);
	ck_assert_uint_eq(strlen(m.what), MSG_WHAT_MAX - 1);
	ck_assert_mem_eq(m.what, what, MSG_WHAT_MAX - 1);
	msg_bye_done(&m);
	buf_done(&b);
}
END_TEST

START_TEST(send_long_start)
{
	struct msg_start m = a_start, back;
	struct buf out;
	struct decoder d;
	struct frame_assembler a;
	struct frame f;
	int complete = 0;

	char *text = malloc(LIMIT_COMMAND_BYTES + 1);
	memset(text, 'x', LIMIT_COMMAND_BYTES);
	text[LIMIT_COMMAND_BYTES] = '\0';
	m.command = text;
	buf_init(&out, MIB);
	ck_assert_int_eq(msg_send(&out, AGENT_PROTOCOL_MAX, start, FRAME_START, 3, &m), 0);
	decoder_init(&d, DECODER_PLAIN, NULL);
	frame_assembler_init(&a, LIMIT_MESSAGE_BYTES);
	while (!complete && buf_len(&out) > 0) {
		size_t room;
		uint8_t *at = decoder_space(&d, &room);
		size_t n = MIN_OF(room, buf_len(&out));
		memcpy(at, buf_head(&out), n);
		decoder_fed(&d, n);
		buf_consume(&out, n);
		while (!complete && decoder_next(&d, &f) == DECODER_FRAME)
			complete = frame_assembler_add(&a, &f);
	}
	ck_assert_int_eq(complete, 1);
	ck_assert_int_eq(msg_start_get(&f, AGENT_PROTOCOL_MAX, &back), 0);
	ck_assert_str_eq(back.command, text);
	msg_start_done(&back);
	frame_assembler_done(&a);
	decoder_done(&d);
	buf_done(&out);
	free(text);
}
END_TEST

/* A recorded message is unchanged when decoded and encoded again. */
#define SAME(name) \
	static void same_##name(const struct frame *f, uint16_t version) \
	{ \
		struct msg_##name m; \
		struct buf b; \
		buf_init(&b, LIMIT_MESSAGE_BYTES); \
		ck_assert_int_eq(msg_##name##_get(f, version, &m), 0); \
		ck_assert_int_eq(msg_##name##_put(&b, version, &m), 0); \
		ck_assert_uint_eq(buf_len(&b), f->length); \
		ck_assert_mem_eq(buf_head(&b), f->payload, f->length); \
		msg_##name##_done(&m); \
		buf_done(&b); \
	}
AGENT_MESSAGES(SAME)

static const struct {
	uint16_t type;
	void (*same)(const struct frame *f, uint16_t version);
	uint16_t since; /* 0: always */
} message_of[] = {
	{ FRAME_HELLO, same_hello },
	{ FRAME_SETUP, same_setup },
	{ FRAME_START, same_start },
	{ FRAME_KILL, same_kill },
	{ FRAME_RESUME, same_resume },
	{ FRAME_WELCOME, same_welcome },
	{ FRAME_SETUP_DONE, same_result },
	{ FRAME_STARTED, same_result },
	{ FRAME_EXIT, same_exit },
	{ FRAME_BYE, same_bye },
	{ FRAME_FILE, same_file, 3 },
	{ FRAME_FILE_DONE, same_file_result, 3 },
};

START_TEST(recorded_messages)
{
	unsigned seen[ARRAY_SIZE(message_of)] = { 0 };
	FILE *file = recorded_open((unsigned)_i);
	struct recorded line;

	while (recorded_next(file, &line))
		for (size_t i = 0; i < ARRAY_SIZE(message_of); i++)
			if (line.n > 0 && line.frame.type == message_of[i].type) {
				message_of[i].same(&line.frame, (uint16_t)_i);
				seen[i]++;
			}
	for (size_t i = 0; i < ARRAY_SIZE(seen); i++)
		ck_assert(seen[i] > 0 || message_of[i].since > _i);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent");
	TCase *tc = tcase_create("agent");

	tcase_set_timeout(tc, 60);
	/* Also with a future version. */
	tcase_add_loop_test(tc, round_trips, 1, AGENT_PROTOCOL_MAX + 2);
	tcase_add_loop_test(tc, mutations, 1, AGENT_PROTOCOL_MAX + 2);
	tcase_add_test(tc, fields_of_a_version);
	tcase_add_test(tc, held_of_a_version);
	tcase_add_test(tc, greetings_say_their_version);
	tcase_add_test(tc, frames_of_a_version);
	tcase_add_test(tc, fields_arrive);
	tcase_add_test(tc, start_ranges);
	tcase_add_test(tc, start_environment_limits);
	tcase_add_test(tc, other_ranges);
	tcase_add_test(tc, file_ranges);
	tcase_add_test(tc, file_result_ranges);
	tcase_add_test(tc, paths_in_order);
	tcase_add_test(tc, long_what_is_cut);
	tcase_add_test(tc, long_what_is_cut_between_characters);
	tcase_add_test(tc, send_long_start);
	tcase_add_loop_test(tc, recorded_messages, AGENT_PROTOCOL_MIN, AGENT_PROTOCOL_MAX);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
