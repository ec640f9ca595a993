/* SPDX-License-Identifier: MIT */
/*
 * The lower bound of the daemon's call times. One thread reads lines from the socketpairs that it
 * inherits (descriptors 3, 4, ...), parses each with json-c, and builds a reply of a given size
 * with its id. The replies to one read go out in one write. It checks nothing, keeps no state, and
 * may block in write on a slow reader. Started by rpc-load; exits with its last peer.
 *
 *   echo COUNT REPLY_BYTES
 */

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_FD  3
#define COUNT_MAX 64
#define IN_SIZE   (64 * 1024)
#define OUT_SIZE  (1024 * 1024)

struct peer {
	char in[IN_SIZE];
	size_t n_in;
};

static char out[OUT_SIZE];
static size_t n_out;
static char *padding;

static void die(const char *what)
{
	fprintf(stderr, "echo: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static void answer(struct json_tokener *tok, const char *line, size_t n)
{
	json_tokener_reset(tok);
	json_object *q = json_tokener_parse_ex(tok, line, (int)n), *id = NULL;
	json_object *o = json_object_new_object(), *result = json_object_new_object();

	if (!q || !json_object_object_get_ex(q, "id", &id))
		die("a line without an id");
	json_object_object_add(o, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(o, "id", json_object_get(id));
	json_object_object_add(result, "padding", json_object_new_string(padding));
	json_object_object_add(o, "result", result);
	size_t len;
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
	if (n_out + len + 1 > sizeof(out)) {
		errno = ENOBUFS;
		die("the replies to one read");
	}
	memcpy(out + n_out, text, len);
	out[n_out + len] = '\n';
	n_out += len + 1;
	json_object_put(o);
	json_object_put(q);
}

/* False when the peer closed with calls pending. */
static bool write_out(int fd)
{
	for (size_t done = 0; done < n_out;) {
		ssize_t n = send(fd, out + done, n_out - done, MSG_NOSIGNAL);
		if (n < 0 && errno != EPIPE && errno != ECONNRESET)
			die("send");
		if (n < 0)
			return false;
		done += (size_t)n;
	}
	n_out = 0;
	return true;
}

/* False when the peer has closed. */
static bool serve(struct peer *p, int fd, struct json_tokener *tok)
{
	ssize_t n = read(fd, p->in + p->n_in, sizeof(p->in) - p->n_in);
	size_t at = 0;
	char *end;

	if (n <= 0)
		return false;
	p->n_in += (size_t)n;
	while ((end = memchr(p->in + at, '\n', p->n_in - at))) {
		answer(tok, p->in + at, (size_t)(end - p->in) - at);
		at = (size_t)(end - p->in) + 1;
	}
	memmove(p->in, p->in + at, p->n_in - at);
	p->n_in -= at;
	return write_out(fd);
}

static void serve_all(struct peer *peers, size_t n, struct json_tokener *tok)
{
	struct pollfd p[COUNT_MAX];
	size_t open = n;

	for (size_t i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = FIRST_FD + (int)i, .events = POLLIN };
	while (open > 0) {
		if (poll(p, n, -1) < 0)
			die("poll");
		for (size_t i = 0; i < n; i++)
			if (p[i].revents && !serve(&peers[i], p[i].fd, tok)) {
				p[i].fd = -1;
				open--;
			}
	}
}

int main(int argc, char **argv)
{
	size_t n = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	size_t reply = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	static const char frame[] =
		"{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"padding\":\"\"}}\n";
	struct json_tokener *tok = json_tokener_new();
	struct peer *peers = n > 0 && n <= COUNT_MAX ? calloc(n, sizeof(*peers)) : NULL;

	if (!peers || !tok || reply < sizeof(frame) || reply > IN_SIZE) {
		fprintf(stderr, "echo COUNT REPLY_BYTES\n");
		return 2;
	}
	reply -= sizeof(frame) - 1;
	padding = malloc(reply + 1);
	if (!padding)
		die("the reply");
	memset(padding, 'x', reply);
	padding[reply] = '\0';
	if (n == 1)
		while (serve(&peers[0], FIRST_FD, tok))
			;
	else
		serve_all(peers, n, tok);
	free(padding);
	free(peers);
	json_tokener_free(tok);
	return EXIT_SUCCESS;
}
