/* A build without liburing: worker threads do it all. */
#include "config.h"

#include "uring.h"

void
uring_start(void)
{
}

void
uring_stop(void)
{
}

bool
uring_usable(void)
{
	return false;
}

void
uring_forbid(bool forbid)
{
	(void)forbid;
}

const char *
uring_text(void)
{
	return "workers (built without io_uring)";
}

bool
uring_join(struct uring_client *client)
{
	(void)client;
	return false;
}

bool
uring_submit(struct uring_client *client, struct blk_request *request)
{
	(void)client;
	(void)request;
	return false;
}

void
uring_cancel(struct uring_client *client, struct blk_request *request)
{
	(void)client;
	(void)request;
}
