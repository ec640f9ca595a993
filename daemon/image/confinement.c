/* SPDX-License-Identifier: MIT */
/*
 * Owns what this daemon knows about the sandbox of its imports. It runs `pyro-import sandbox` once,
 * which enters the sandbox and exits, after the clients that started the daemon have been served;
 * each pull updates the result. Read by doctor.
 *
 * Must stay true: the sandbox is never assumed. Until the result is known doctor says so, and
 * doctor and the log name each missing layer.
 */

#include "daemon/image/confinement.h"

#include <fcntl.h>
#include <sys/queue.h>

#include "daemon/image/environment-private.h"
#include "daemon/log.h"

#define ASK_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define LAYERS_MAX       16
#define LAYER_BYTES_MAX  200

struct waiter {
	confinement_done_fn done;
	void *userdata;
	TAILQ_ENTRY(waiter) entry;
};
TAILQ_HEAD(waiters, waiter);

struct confinement {
	sd_event_source *idle;  /* owned; until the job is started */
	struct import_job *job; /* owned */
	bool known;
	char *missing;      /* owned; missing layers: "a, b", "" for none, NULL without a sandbox */
	struct error error; /* why the sandbox failed */
	struct waiters waiters;
};

struct confinement *confinement_free(struct confinement *c)
{
	struct waiter *w;

	if (!c)
		return NULL;
	while ((w = TAILQ_FIRST(&c->waiters))) {
		TAILQ_REMOVE(&c->waiters, w, entry);
		free(w);
	}
	sd_event_source_disable_unref(c->idle);
	(void)import_job_cancel(c->job);
	free(c->missing);
	error_clear(&c->error);
	free(c);

	return NULL;
}

/* Makes "a, b" of a list of short strings, which is checked: pyro-import is not trusted. */
static char *join(json_object *list)
{
	char *text = strdup("");

	if (!json_object_is_type(list, json_type_array) ||
		json_object_array_length(list) > LAYERS_MAX) {
		free(text);
		return NULL;
	}
	for (size_t i = 0; text && i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i);
		const char *s =
			json_object_is_type(o, json_type_string) ? json_object_get_string(o) : "";
		char name[LAYER_BYTES_MAX], *more;

		(void)log_escape(s, strnlen(s, LAYER_BYTES_MAX), name, sizeof(name));
		more = str_printf("%s%s%s", text, *text ? ", " : "", name);
		free(text);
		text = more;
	}

	return text;
}

static void notify_waiters(struct confinement *c)
{
	struct waiter *w;

	c->known = true;
	while ((w = TAILQ_FIRST(&c->waiters))) {
		_cleanup_free_ struct waiter *first = w;

		TAILQ_REMOVE(&c->waiters, w, entry);
		first->done(NULL, first->userdata);
	}
}

int confinement_wait(struct environments *envs, confinement_done_fn done, void *userdata)
{
	struct confinement *c = envs->confinement;
	struct waiter *w;

	if (!c || c->known)
		return 0;
	w = malloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct waiter){ .done = done, .userdata = userdata };
	TAILQ_INSERT_TAIL(&c->waiters, w, entry);

	return 1;
}

void confinement_forget(struct environments *envs, const void *userdata)
{
	struct waiter *w, *next;

	for (w = envs->confinement ? TAILQ_FIRST(&envs->confinement->waiters) : NULL; w; w = next) {
		next = TAILQ_NEXT(w, entry);
		if (w->userdata == userdata) {
			TAILQ_REMOVE(&envs->confinement->waiters, w, entry);
			free(w);
		}
	}
}

void confinement_take(struct environments *envs, json_object *result)
{
	struct confinement *c = envs->confinement;
	char *missing;

	if (!c)
		return;
	missing = join(json_get(result, "unconfined"));
	if (!missing)
		return; /* the earlier result stays */
	if (*missing && (!c->missing || !streq(missing, c->missing)))
		log_warning("the sandbox of imports lacks: %s", missing);
	free(c->missing);
	c->missing = missing;
	error_clear(&c->error);
	notify_waiters(c);
}

static void on_answer(json_object *result, const struct error *err, void *userdata)
{
	struct environments *envs = userdata;
	struct confinement *c = envs->confinement;

	c->job = NULL;
	if (result) {
		confinement_take(envs, result);
		if (c->known)
			return;
		(void)error_set(&c->error, ERROR_INTERNAL, "Its answer names no layers.",
			"Install pyro again: its pyro-import does not fit this pyrod.",
			"pyro-import sandbox failed");
		notify_waiters(c);
		return;
	}
	(void)error_copy(&c->error, err);
	notify_waiters(c);
	log_warning("imports cannot be confined and will fail: %s%s%s",
		err->message ? err->message : "no memory", err->cause ? ": " : "",
		err->cause ? err->cause : "");
}

static int start(struct environments *envs, struct confinement *c)
{
	_cleanup_close_ int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_set_errno(&c->error, ERROR_INTERNAL, -errno, NULL, "Cannot open /");

	return import_job_start(envs->manager,
		&(struct import_job_spec){
			.args = (const char *const[]){ "sandbox", NULL },
			.dir_fd = root,
			.input_fd = -EBADF,
			.unit = true,
			.timeout_usec = ASK_TIMEOUT_USEC,
			.failure = ERROR_INTERNAL,
			.again = "Restart pyrod; its log has the details.",
			.on_done = on_answer,
			.userdata = envs,
		},
		&c->job, &c->error);
}

static int on_idle(_unused_ sd_event_source *source, void *userdata)
{
	struct environments *envs = userdata;
	struct confinement *c = envs->confinement;

	c->idle = sd_event_source_disable_unref(c->idle);
	/* Doctor reports a pyro-import that cannot be started; machines run without it. */
	if (!c->known && start(envs, c) < 0)
		notify_waiters(c);

	return 0;
}

/*
 * Delays the job until the loop is idle: a program that loads fifty libraries would double the time
 * to the first answer on a busy host.
 */
int confinement_ask(struct environments *envs)
{
	struct confinement *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	TAILQ_INIT(&c->waiters);
	envs->confinement = c;
	r = sd_event_add_defer(envs->manager->event, &c->idle, on_idle, envs);
	if (r >= 0)
		r = sd_event_source_set_priority(c->idle, SD_EVENT_PRIORITY_IDLE);

	return r;
}

bool confinement_is_known(struct environments *envs)
{
	return envs->confinement && envs->confinement->known;
}

bool confinement_describe(struct environments *envs, char **ret_detail, const char **ret_fix)
{
	struct confinement *c = envs->confinement;

	*ret_fix = NULL;
	if (!c || !c->known) {
		*ret_detail = strdup("pyro-import has not yet reported how it can confine imports");
		return true;
	}
	if (c->error.set) {
		*ret_detail = str_printf("%s%s%s", c->error.message ? c->error.message : "",
			c->error.cause ? ": " : "", c->error.cause ? c->error.cause : "");
		*ret_fix = c->error.fix;
		return false;
	}
	if (*c->missing) {
		*ret_detail =
			str_printf("archives are parsed without: %s; limits, another uid or no "
				   "capability, and a filter of system calls are in force",
				c->missing);
		*ret_fix =
			"allow unprivileged user namespaces (sysctl user.max_user_namespaces) and Landlock";
		return true;
	}
	*ret_detail = strdup("archives are parsed without network, files and other processes");

	return true;
}
