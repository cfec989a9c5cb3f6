/*
 * TLS over another stream: its life, its handshake, and when its owner is called. What becomes of the
 * bytes is tls_records.c's business.
 *
 * What is decrypted and not yet read is not seen by the inner stream's readiness. Then the nudge, a
 * deferred task, calls the owner.
 */
#include "config.h"

#include "tls.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "log.h"
#include "slab.h"
#include "tls_openssl.h"
#include "tls_records.h"

#define LOG_EVERY SECOND_NS

/* Calls the owner from the loop. Apart from the stream, which may leave the loop while it is
 * queued. */
struct nudge {
	struct loop_task task;
	struct tls_stream *tls; /* NULL: it left, and the nudge is freed when it runs */
};

struct tls_stream {
	struct stream stream;
	struct stream *inner;
	struct tls_context *context;
	struct tls_records records;
	struct nudge *nudge; /* while attached */
	unsigned wanted;     /* STREAM_*, the owner's */
	unsigned watched;    /* of the inner stream */
	bool established;
	bool finishing; /* close_notify is the last that was put into the output */

	const char *version;
	char identity[LIMIT_TLS_PSK_IDENTITY + 4]; /* "CN=" and a name, or a PSK's */
};

static const struct stream_ops tls_ops;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct slab_cache *stream_cache;

static void
make_cache(void)
{
	stream_cache = slab_cache_new("stream_tls", sizeof(struct tls_stream), 0, 0, NULL);
}

bool
stream_tls_start(void)
{
	pthread_once(&once, make_cache);
	return tls_records_start() && stream_cache;
}

static struct tls_stream *
tls_of(const struct stream *stream)
{
	return container_of((struct stream *)(uintptr_t)stream, struct tls_stream, stream);
}

/* Nothing can follow close_notify but the end. */
static void
finish_inner(struct tls_stream *tls)
{
	if (!tls->finishing || tls->records.silent || tls->records.failed)
		return;
	tls->records.silent = true;
	if (tls->inner->ops->finish)
		stream_finish(tls->inner);
}

/* A read would give something else than -EAGAIN, or may. */
static bool
has_news(const struct tls_stream *tls)
{
	if (tls->records.failed || tls->records.ended)
		return true;
	return tls->established && tls_records_pending(&tls->records);
}

/* What the owner wants and can have, now that the inner stream is ready for `events`. */
static unsigned
find_ready(const struct tls_stream *tls, unsigned events)
{
	unsigned ready = 0;

	if (has_news(tls) || (tls->established && events & STREAM_READABLE))
		ready |= STREAM_READABLE;
	if (tls->records.failed ||
		(tls->established && !tls->records.output && events & STREAM_WRITABLE))
		ready |= STREAM_WRITABLE;
	return ready & tls->wanted;
}

/* Watches for what moves this stream on, and nudges the owner to what is here already. */
static int
settle(struct tls_stream *tls)
{
	unsigned events = 0;
	int rc = 0;

	if (!tls->nudge)
		return 0;
	if (tls->records.output)
		events |= STREAM_WRITABLE;
	else
		finish_inner(tls);
	if (!tls->established)
		events |= STREAM_READABLE;
	else
		events |= tls->wanted;
	/* What is not read although it is there must not wake us again and again. */
	if (has_news(tls) || tls->records.choked || (!tls->established && tls->records.output))
		events &= ~(unsigned)STREAM_READABLE;
	if (tls->records.failed)
		events = 0;
	if (find_ready(tls, 0) && !tls->nudge->task.queued)
		loop_defer(tls->stream.loop, &tls->nudge->task);
	if (events != tls->watched) {
		rc = stream_watch(tls->inner, events);
		if (rc == 0)
			tls->watched = events;
	}
	return rc;
}

static void
run_nudge(struct loop_task *task)
{
	struct nudge *nudge = container_of(task, struct nudge, task);
	struct tls_stream *tls = nudge->tls;
	unsigned ready;

	if (!tls) {
		free(nudge);
		return;
	}
	ready = find_ready(tls, 0);
	if (ready)
		tls->stream.ready(&tls->stream, ready);
}

/* Someone who knocks at the door all day must not fill the log. */
static void
log_failure(const struct tls_stream *tls, const char *reason)
{
	static _Atomic uint64_t last;
	uint64_t now = clock_now(), then = atomic_load(&last);

	if ((then == 0 || now - then >= LOG_EVERY) &&
		atomic_compare_exchange_strong(&last, &then, now))
		log_info("%s: no TLS: %s", stream_peer(tls->inner), reason);
	else
		log_debug("%s: no TLS: %s", stream_peer(tls->inner), reason);
}

/* "CN=" and the name: what a person or a rule calls the peer by. Made fit for any output. */
static void
note_certificate(struct tls_stream *tls)
{
	const X509 *certificate = SSL_get0_peer_certificate(tls->records.ssl);
	const X509_NAME *name = certificate ? X509_get_subject_name(certificate) : NULL;
	char *text = tls->identity + 3;
	int length;

	if (!name)
		return;
	length = X509_NAME_get_text_by_NID(
		(X509_NAME *)(uintptr_t)name, NID_commonName, text, LIMIT_TLS_PSK_IDENTITY);
	if (length < 0)
		return;
	memcpy(tls->identity, "CN=", 3);
	text[length] = '\0';
	for (int i = 0; i < length; i++)
		if (text[i] < 0x20 || text[i] > 0x7e)
			text[i] = '?';
}

static void
establish(struct tls_stream *tls)
{
	const char *psk = SSL_get_psk_identity(tls->records.ssl);

	tls->established = true;
	tls->version = SSL_version(tls->records.ssl) >= TLS1_3_VERSION ? "TLS 1.3" : "TLS 1.2";
	/* In 1.3 a key that was named and then not used proves nothing; there is no resumption. */
	if (!SSL_session_reused(tls->records.ssl) && !psk)
		tls->identity[0] = '\0';
	note_certificate(tls);
	log_debug("%s: %s, %s%s%s", stream_peer(tls->inner), tls->version,
		SSL_get_cipher_name(tls->records.ssl), tls->identity[0] ? ", " : "", tls->identity);
}

/* At most one step in a turn of the loop: a signature may cost milliseconds. */
static void
step_handshake(struct tls_stream *tls)
{
	const char *reason;
	int rc = tls_records_handshake(&tls->records, &reason);

	if (rc > 0)
		establish(tls);
	else if (rc < 0)
		log_failure(tls, reason);
}

static void
on_inner_ready(struct stream *inner, unsigned events)
{
	struct tls_stream *tls = inner->owner;
	struct tls_records *records = &tls->records;
	unsigned ready;

	if (events & STREAM_WRITABLE)
		tls_records_flush(records);
	if (!tls->established && !records->failed) {
		/* What was kept waits for room in the output. */
		if (!records->output && (events & STREAM_READABLE || records->input_left ||
						SSL_want_write(records->ssl)))
			step_handshake(tls);
		events = 0;
	}
	if (settle(tls))
		tls_records_fail(records, -ENOMEM);
	ready = find_ready(tls, events);
	if (ready)
		tls->stream.ready(&tls->stream, ready);
}

static ssize_t
read_tls(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct tls_stream *tls = tls_of(stream);
	struct tls_records *records = &tls->records;
	size_t done = 0;

	if (!tls->established && !records->failed)
		return -EAGAIN;
	if (!records->failed && !records->ended)
		done = tls_records_read(records, iov, niov);
	if (settle(tls))
		tls_records_fail(records, -ENOMEM);
	if (done > 0)
		return (ssize_t)done;
	if (records->failed)
		return records->failed;
	return records->ended ? 0 : -EAGAIN;
}

static ssize_t
write_tls(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct tls_stream *tls = tls_of(stream);
	struct tls_records *records = &tls->records;
	size_t done = 0;

	if (tls->established && !records->failed)
		done = tls_records_write(records, iov, niov);
	if (settle(tls))
		tls_records_fail(records, -ENOMEM);
	if (records->failed)
		return records->failed;
	return done > 0 ? (ssize_t)done : -EAGAIN;
}

static int
watch_tls(struct stream *stream, unsigned events)
{
	struct tls_stream *tls = tls_of(stream);

	tls->wanted = events;
	return settle(tls);
}

static int
attach_tls(struct stream *stream, struct loop *loop)
{
	struct tls_stream *tls = tls_of(stream);
	struct nudge *nudge = calloc(1, sizeof(*nudge));
	int rc = nudge ? stream_attach(tls->inner, loop, on_inner_ready, tls) : -ENOMEM;

	if (rc) {
		free(nudge);
		return rc;
	}
	nudge->task.run = run_nudge;
	nudge->tls = tls;
	tls->nudge = nudge;
	tls->wanted = STREAM_READABLE;
	tls->watched = STREAM_READABLE;
	rc = settle(tls);
	if (rc)
		tls_ops.detach(stream);
	return rc;
}

static void
detach_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);

	if (tls->nudge->task.queued)
		tls->nudge->tls = NULL;
	else
		free(tls->nudge);
	tls->nudge = NULL;
	stream_detach(tls->inner);
}

static int
finish_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);
	struct tls_records *records = &tls->records;

	if (!tls->established || records->failed)
		return -ENOTCONN;
	tls_records_shutdown(records);
	tls->finishing = true;
	if (settle(tls))
		tls_records_fail(records, -ENOMEM);
	return records->failed;
}

static void
close_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);

	if (tls->established && !tls->finishing)
		tls_records_goodbye(&tls->records);
	tls_records_free(&tls->records);
	stream_close(tls->inner);
	tls_context_put(tls->context);
	slab_free(stream_cache, tls);
}

static const char *
peer_tls(const struct stream *stream)
{
	return stream_peer(tls_of(stream)->inner);
}

static const char *
local_tls(const struct stream *stream)
{
	return stream_local(tls_of(stream)->inner);
}

static const char *
identity_tls(const struct stream *stream)
{
	const struct tls_stream *tls = tls_of(stream);

	return tls->established ? tls->identity : "";
}

static const char *
security_tls(const struct stream *stream)
{
	return tls_of(stream)->version;
}

static void
established_tls(struct stream *stream)
{
	stream_established(tls_of(stream)->inner);
}

static const struct stream_ops tls_ops = {
	.read = read_tls,
	.write = write_tls,
	.watch = watch_tls,
	.attach = attach_tls,
	.detach = detach_tls,
	.close = close_tls,
	.finish = finish_tls,
	.established = established_tls,
	.peer = peer_tls,
	.local = local_tls,
	.identity = identity_tls,
	.security = security_tls,
};

struct stream *
stream_tls_new(struct stream *inner, struct tls_context *context)
{
	struct tls_stream *tls = slab_alloc(stream_cache);
	SSL *ssl;

	if (!tls)
		return NULL;
	memset(tls, 0, sizeof(*tls));
	tls->stream.ops = &tls_ops;
	tls->inner = inner;
	ssl = tls_context_ssl(context, tls->identity);
	if (!ssl || tls_records_init(&tls->records, inner, ssl)) {
		slab_free(stream_cache, tls);
		return NULL;
	}
	tls->context = tls_context_get(context);
	return &tls->stream;
}
