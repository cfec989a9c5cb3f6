#include "config.h"
#include "secure.h"

#include <errno.h>

static struct tls_context *context;

int
secure_load(const struct conf *conf, struct error *error)
{
	const struct tls_files files = {
		.certificate = conf->tls_certificate,
		.key = conf->tls_key,
		.ca = conf->tls_ca,
		.psk = conf->tls_psk,
	};

	if (!conf->tls_certificate && !conf->tls_psk)
		return 0;
	context = tls_context_new(&files, error);
	return context ? 0 : -EINVAL;
}

void
secure_unload(void)
{
	tls_context_put(context);
	context = NULL;
}

struct tls_context *
secure_context(void)
{
	return context;
}

bool
secure_verifies(void)
{
	return context && tls_context_verifies(context);
}
