/* SPDX-License-Identifier: MIT */
/*
 * The questions to a name service about the owners of uids, and its answers. What must stay true:
 *
 * - one program (subid-main.c) runs at a time, for a bounded time, and the queue is bounded;
 * - a user with 65,536 uids can neither fill the queue nor evict all answers, since each block of
 *   65,536 uids has a share of both, and a block without a question gets a place in a full queue.
 *   An answer is for the whole range of its owner, if the service lists ranges, so that most floods
 *   are one question;
 * - a failed question is an answer too (not known) for a while, so that nobody can make the program
 *   run again and again. A failed refresh of an old answer leaves it as it was.
 */

#include "daemon/subid.h"

#include <limits.h>
#include <strings.h>

#include "daemon/job.h"
#include "daemon/log.h"
#include "proto/deadline.h"

enum {
	BLOCK_BITS = 16,
	QUEUE_MAX = 64,
	QUEUE_BLOCK_MAX = 16,
	ANSWERS_MAX = 8192,
	ANSWERS_BLOCK_MAX = 1024,
	ANSWER_LINE_MAX = 64,
	CAUSE_MAX = 200,
};

#define FRESH_USEC (10 * 60 * USEC_PER_SEC) /* then it is asked again */
#define KEPT_USEC  (60 * 60 * USEC_PER_SEC) /* then it is forgotten */
#define RETRY_USEC (60 * USEC_PER_SEC)      /* a question that failed, or has no answer */
#define PAUSE_USEC USEC_PER_SEC             /* before the next program after one that failed */

struct answer {
	uint64_t start, end; /* end is exclusive */
	uid_t owner;
	bool is_known;
	uint64_t ask_usec, until_usec;
};

struct subids {
	sd_event *event; /* borrowed: the manager's */
	char *program;   /* owned */
	uid_t uid;
	gid_t gid;
	void (*on_answer)(void *userdata);
	void *userdata;
	bool has_source;
	char source[SUBID_SOURCE_SIZE];
	struct answer *answers; /* owned; sorted by start, none overlaps another */
	size_t n_answers;
	uid_t queue[QUEUE_MAX];
	size_t n_queue;
	struct job *job;              /* owned; NULL: none runs */
	sd_event_source *timer;       /* owned; starts the next program */
	uid_t asked;                  /* with job */
	struct answer answer;         /* with job: what it has printed */
	bool is_answered, is_garbled; /* with job */
	bool is_failing;              /* since the last answer, and logged */
};

/* nsswitch.conf */

/* Returns the end of the word at p, and of the action "[...]" if there is one. */
static const char *word_end(const char *p)
{
	size_t n;

	if (*p != '[')
		return p + strcspn(p, " \t\r\n#[");
	n = strcspn(p, "]\n");
	return p + n + (p[n] == ']');
}

/* True if the line lists any source. *ret is the first one other than "files", or NULL. */
static bool read_sources(const char *p, const char **ret, size_t *ret_n)
{
	bool any = false;

	for (;;) {
		const char *end;

		p += strspn(p, " \t\r");
		if (*p == '\0' || *p == '\n' || *p == '#')
			return any;
		end = word_end(p);
		if (*p != '[') {
			any = true;
			if (end - p != 5 || strncasecmp(p, "files", 5) != 0) {
				*ret = p;
				*ret_n = (size_t)(end - p);
				return true;
			}
		}
		p = end;
	}
}

bool subid_source(const char *text, char ret[SUBID_SOURCE_SIZE])
{
	const char *source = NULL;
	size_t n = 0;

	for (const char *p = text; p; p = strchr(p, '\n'), p += p != NULL) {
		const char *line = p + strspn(p, " \t");

		/* libsubid uses the first such line that is not empty. */
		if (strncasecmp(line, "subid:", 6) == 0 && read_sources(line + 6, &source, &n))
			break;
	}
	if (!source)
		return false;
	if (n >= SUBID_SOURCE_SIZE)
		n = 0;
	memcpy(ret, source, n);
	ret[n] = '\0';
	return true;
}

/* Answers */

/* Returns the place of the first answer that ends after uid. */
static size_t place_of(const struct subids *s, uint64_t uid)
{
	size_t low = 0, high = s->n_answers;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (s->answers[middle].end <= uid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct answer *answer_of(struct subids *s, uid_t uid)
{
	size_t i = place_of(s, uid);

	return i < s->n_answers && s->answers[i].start <= uid ? &s->answers[i] : NULL;
}

static void forget(struct subids *s, size_t i, size_t n)
{
	memmove(s->answers + i, s->answers + i + n, (s->n_answers - i - n) * sizeof(*s->answers));
	s->n_answers -= n;
}

static bool is_same_block(uint64_t a, uint64_t b)
{
	return a >> BLOCK_BITS == b >> BLOCK_BITS;
}

/* Makes room for an answer about uid: of too many the oldest goes, of its block if these are too
 * many. */
static void forget_oldest(struct subids *s, uint64_t uid)
{
	size_t n = 0, oldest = 0, oldest_block = 0;

	for (size_t i = 0; i < s->n_answers; i++) {
		const struct answer *a = s->answers;

		if (a[i].until_usec < a[oldest].until_usec)
			oldest = i;
		if (!is_same_block(a[i].start, uid))
			continue;
		if (n++ == 0 || a[i].until_usec < a[oldest_block].until_usec)
			oldest_block = i;
	}
	if (n >= ANSWERS_BLOCK_MAX)
		forget(s, oldest_block, 1);
	else if (s->n_answers >= ANSWERS_MAX)
		forget(s, oldest, 1);
}

/* An older answer about a part of the range is replaced. */
static void keep(struct subids *s, const struct answer *new)
{
	size_t i = place_of(s, new->start), n = 0;

	while (i + n < s->n_answers && s->answers[i + n].start < new->end)
		n++;
	forget(s, i, n);
	forget_oldest(s, new->start);
	i = place_of(s, new->start);
	memmove(s->answers + i + 1, s->answers + i, (s->n_answers - i) * sizeof(*s->answers));
	s->answers[i] = *new;
	s->n_answers++;
}

static void keep_failure(struct subids *s, uid_t uid)
{
	const uint64_t now = now_usec();
	struct answer *old = answer_of(s, uid);

	if (old && old->is_known && now < old->until_usec)
		old->ask_usec = now + RETRY_USEC;
	else
		keep(s, &(struct answer){
				.start = uid,
				.end = (uint64_t)uid + 1,
				.ask_usec = now + RETRY_USEC,
				.until_usec = now + KEPT_USEC,
			});
}

/* The program */

/* If it fails, which an ending loop makes it do, the next question tries again. */
static void schedule(struct subids *s, uint64_t usec)
{
	if (sd_event_source_get_enabled(s->timer, NULL) > 0)
		return;
	if (sd_event_source_set_time_relative(s->timer, usec) >= 0)
		(void)sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
}

/* Drops the newest question of the block that has most; false if none has two. */
static bool drop_question(struct subids *s)
{
	size_t most = 1, newest = 0;

	for (size_t i = 0; i < s->n_queue; i++) {
		size_t n = 0;

		for (size_t k = 0; k <= i; k++)
			n += is_same_block(s->queue[k], s->queue[i]);
		if (n > most) {
			most = n;
			newest = i;
		}
	}
	if (most == 1)
		return false;
	s->n_queue--;
	memmove(s->queue + newest, s->queue + newest + 1,
		(s->n_queue - newest) * sizeof(*s->queue));
	return true;
}

static void ask(struct subids *s, uid_t uid)
{
	size_t n_block = 0;

	if (s->job && s->asked == uid)
		return;
	for (size_t i = 0; i < s->n_queue; i++) {
		if (s->queue[i] == uid)
			return;
		n_block += is_same_block(s->queue[i], uid);
	}
	/* A uid that finds no place is asked about at a later count. */
	if (n_block >= QUEUE_BLOCK_MAX)
		return;
	if (s->n_queue == QUEUE_MAX && (n_block > 0 || !drop_question(s)))
		return;
	s->queue[s->n_queue++] = uid;
	if (!s->job)
		schedule(s, 0);
}

/* Reads "own", "unknown" or "OWNER START COUNT". */
static int read_answer(char *line, uid_t uid, struct answer *ret)
{
	const uint64_t now = now_usec();
	uint64_t owner, start, count;

	*ret = (struct answer){
		.start = uid,
		.end = (uint64_t)uid + 1,
		.owner = uid,
		.is_known = true,
		.ask_usec = now + FRESH_USEC,
		.until_usec = now + KEPT_USEC,
	};
	if (streq(line, "unknown")) {
		ret->is_known = false;
		ret->ask_usec = now + RETRY_USEC;
		return 0;
	}
	if (streq(line, "own"))
		return 0;
	const char *words[] = { strsep(&line, " "), strsep(&line, " "), line };
	if (!words[1] || !words[2] || parse_u64(words[0], 0, UINT32_MAX - 1, &owner) < 0 ||
		parse_u64(words[1], 0, uid, &start) < 0 ||
		parse_u64(words[2], uid - start + 1, UINT32_MAX - start, &count) < 0)
		return -EBADMSG;
	ret->owner = (uid_t)owner;
	ret->start = start;
	ret->end = start + count;
	return 0;
}

static void on_line(struct job *job _unused_, const char *line, size_t n, void *userdata)
{
	struct subids *s = userdata;
	char copy[ANSWER_LINE_MAX];

	if (s->is_answered || n >= sizeof(copy)) {
		s->is_garbled = true;
		return;
	}
	memcpy(copy, line, n + 1);
	s->is_answered = true;
	s->is_garbled = read_answer(copy, s->asked, &s->answer) < 0;
}

/* Writes why the program failed: the last line of its stderr, or how it ended. */
static void describe_end(int status, const char *tail, char ret[CAUSE_MAX])
{
	size_t end = strlen(tail), start;

	while (end > 0 && tail[end - 1] == '\n')
		end--;
	for (start = end; start > 0 && tail[start - 1] != '\n';)
		start--;
	if (status == INT_MIN)
		(void)snprintf(ret, CAUSE_MAX, "it did not answer in time");
	else if (status < 0)
		(void)snprintf(ret, CAUSE_MAX, "it was ended by signal %d", -status);
	else if (status == 0 || end == start)
		(void)snprintf(ret, CAUSE_MAX, "it gave no answer (exit status %d)", status);
	else
		(void)snprintf(ret, CAUSE_MAX, "%.*s",
			(int)MIN_OF(end - start, (size_t)CAUSE_MAX - 1), tail + start);
}

/* One line for each time that the service stops answering, however many uids it is asked about. */
static void fail(struct subids *s, const char *why)
{
	keep_failure(s, s->asked);
	if (!s->is_failing)
		log_warning("cannot find the owner of uid %u by the subid source \"%s\" of "
			    "nsswitch.conf: %s; uids of unknown owner have one user's limits "
			    "together until it answers",
			s->asked, s->source, why);
	s->is_failing = true;
	schedule(s, PAUSE_USEC);
	s->on_answer(s->userdata);
}

static void log_answer(const struct subids *s, const struct answer *a)
{
	if (!a->is_known)
		log_uid(LOG_INFO, 0, s->asked,
			"uid %u counts with all uids of unknown owner: subid source \"%s\" does "
			"not know it",
			s->asked, s->source);
	else if (a->owner != s->asked)
		log_uid(LOG_INFO, 0, s->asked,
			"uid %u counts as uid %u, which owns it by subid source \"%s\"", s->asked,
			a->owner, s->source);
}

static void on_done(struct job *job _unused_, int status, const char *tail, void *userdata)
{
	struct subids *s = userdata;
	char why[CAUSE_MAX];

	s->job = NULL;
	if (status != 0 || !s->is_answered || s->is_garbled) {
		describe_end(status, tail, why);
		fail(s, why);
		return;
	}
	s->is_failing = false;
	if (s->answer.is_known)
		keep(s, &s->answer);
	else
		keep_failure(s, s->asked);
	log_answer(s, &s->answer);
	if (s->n_queue > 0)
		schedule(s, 0);
	s->on_answer(s->userdata);
}

static int start(struct subids *s)
{
	static const char *const env[] = { "PATH=/usr/bin:/bin", "LANG=C.UTF-8", NULL };
	char uid[16];
	const char *argv[] = { s->program, s->source, uid, NULL };

	(void)snprintf(uid, sizeof(uid), "%u", s->asked);
	s->is_answered = s->is_garbled = false;
	return job_start(s->event,
		&(struct job_spec){
			.name = "pyro-subid",
			.child = { .argv = argv,
				.env = env,
				.stdin_fd = -EBADF,
				.uid = s->uid,
				.gid = s->gid,
				.die_with_parent = true },
			.timeout_usec = deadline_usec(DEADLINE_OWNER),
			.on_line = on_line,
			.on_done = on_done,
			.userdata = s,
		},
		&s->job);
}

static int on_timer(sd_event_source *source _unused_, uint64_t usec _unused_, void *userdata)
{
	struct subids *s = userdata;
	const struct answer *known;
	int r;

	while (s->n_queue > 0 && !s->job) {
		s->asked = s->queue[0];
		s->n_queue--;
		memmove(s->queue, s->queue + 1, s->n_queue * sizeof(*s->queue));
		known = answer_of(s, s->asked);
		if (known && now_usec() < known->ask_usec)
			continue; /* the range of an answer since then has it */
		r = start(s);
		if (r < 0) {
			fail(s, strerror(-r));
			break;
		}
	}
	return 0;
}

int subids_new(const struct subids_spec *spec, struct subids **ret)
{
	_cleanup_(subids_freep) struct subids *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->event = spec->event;
	s->uid = spec->uid;
	s->gid = spec->gid;
	s->on_answer = spec->on_answer;
	s->userdata = spec->userdata;
	s->program = strdup(spec->program);
	s->answers = calloc(ANSWERS_MAX, sizeof(*s->answers));
	if (!s->program || !s->answers)
		return -ENOMEM;
	r = sd_event_add_time_relative(
		s->event, &s->timer, CLOCK_MONOTONIC, 0, USEC_PER_MSEC, on_timer, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

struct subids *subids_free(struct subids *s)
{
	if (!s)
		return NULL;
	job_cancel(s->job);
	sd_event_source_disable_unref(s->timer);
	free(s->answers);
	free(s->program);
	free(s);
	return NULL;
}

void subids_set_source(struct subids *s, const char *source)
{
	if (s->has_source == (source != NULL) && (!source || streq(source, s->source)))
		return;
	s->job = job_cancel(s->job);
	(void)sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
	s->n_queue = s->n_answers = 0;
	s->is_failing = false;
	s->has_source = source != NULL;
	(void)snprintf(s->source, sizeof(s->source), "%s", source ? source : "");
}

bool subids_find(struct subids *s, uid_t uid, uid_t *ret_owner)
{
	const struct answer *a = answer_of(s, uid);
	const uint64_t now = now_usec();

	if (!a || now >= a->ask_usec)
		ask(s, uid);
	if (!a || !a->is_known || now >= a->until_usec)
		return false;
	*ret_owner = a->owner;
	return true;
}
