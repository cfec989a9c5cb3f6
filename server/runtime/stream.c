#include "config.h"

#include "stream.h"

#include <errno.h>

#include "check.h"

int
stream_attach(struct stream *stream, struct loop *loop,
	void (*ready)(struct stream *stream, unsigned events), void *owner)
{
	int rc;

	CHECK(!stream->loop && loop == loop_current());
	stream->loop = loop;
	stream->ready = ready;
	stream->owner = owner;
	rc = stream->ops->attach(stream, loop);
	if (rc) {
		stream->loop = NULL;
		stream->ready = NULL;
		stream->owner = NULL;
	}
	return rc;
}

void
stream_detach(struct stream *stream)
{
	if (!stream->loop)
		return;
	stream->ops->detach(stream);
	stream->loop = NULL;
	stream->ready = NULL;
	stream->owner = NULL;
}

int
stream_finish(struct stream *stream)
{
	return stream->ops->finish ? stream->ops->finish(stream) : -ENOTSUP;
}

void
stream_established(struct stream *stream)
{
	if (stream->ops->established)
		stream->ops->established(stream);
}

void
stream_close(struct stream *stream)
{
	stream_detach(stream);
	stream->ops->close(stream);
}

const char *
stream_peer(const struct stream *stream)
{
	return stream->ops->peer(stream);
}

const char *
stream_local(const struct stream *stream)
{
	return stream->ops->local(stream);
}

const char *
stream_identity(const struct stream *stream)
{
	return stream->ops->identity ? stream->ops->identity(stream) : "";
}

const char *
stream_security(const struct stream *stream)
{
	return stream->ops->security ? stream->ops->security(stream) : NULL;
}
