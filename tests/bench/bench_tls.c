#include "config.h"

#include "bench_tls.h"

#include <errno.h>
#include <openssl/ssl.h>

static void
end_tls(struct wire *wire)
{
	SSL_free(wire->layer_data);
	wire->layer_data = NULL;
}

static int
start_tls(struct wire *wire)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL *ssl = context ? SSL_new(context) : NULL;

	SSL_CTX_free(context); /* ssl keeps it */
	wire->layer_data = ssl;
	if (ssl) {
		SSL_set_read_ahead(ssl, 1);
		SSL_set_default_read_buffer_len(ssl, 256 * 1024);
	}
	if (!ssl || SSL_set_min_proto_version(ssl, TLS1_3_VERSION) != 1 ||
		SSL_set_ciphersuites(ssl, "TLS_AES_128_GCM_SHA256") != 1 ||
		SSL_set_fd(ssl, wire->fd) != 1 || SSL_connect(ssl) != 1) {
		end_tls(wire);
		return -EPROTO;
	}
	return 0;
}

static ssize_t
send_tls(struct wire *wire, const void *data, size_t length)
{
	size_t n;

	return SSL_write_ex(wire->layer_data, data, length, &n) ? (ssize_t)n : -EIO;
}

/* All that has come, as recv() gives it: a server that puts more into a record gains nothing by that. */
static ssize_t
receive_tls(struct wire *wire, void *data, size_t size)
{
	size_t done = 0, n;

	do {
		if (!SSL_read_ex(wire->layer_data, (char *)data + done, size - done, &n))
			return -ECONNRESET;
		done += n;
	} while (done < size && SSL_has_pending(wire->layer_data));
	return (ssize_t)done;
}

const struct wire_layer bench_tls = {
	.start = start_tls,
	.send = send_tls,
	.receive = receive_tls,
	.end = end_tls,
};
