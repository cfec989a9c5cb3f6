/* TLS 1.3 for the bench's client, of which no certificate is asked and which looks at none. */
#ifndef SLABD_BENCH_TLS_H
#define SLABD_BENCH_TLS_H

#include "../interop/wire.h"

/* One cipher, so that every server has the same to do. */
extern const struct wire_layer bench_tls;

#endif
