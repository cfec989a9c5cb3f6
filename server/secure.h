/* The TLS context of the configuration: loaded before anything is opened. Main thread. */
#ifndef SLABD_SECURE_H
#define SLABD_SECURE_H

#include <stdbool.h>

#include "conf.h"
#include "tls.h"

/* Reads the files that the configuration names, if it wants TLS. 0 or -errno with *error. */
int secure_load(const struct conf *conf, struct error *error);
void secure_unload(void);

/* NULL: no TLS. */
struct tls_context *secure_context(void);

/* Every peer that speaks TLS with us is known to be one that may. */
bool secure_verifies(void);

#endif
