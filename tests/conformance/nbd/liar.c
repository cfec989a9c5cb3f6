#include "config.h"
#include "liar.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum tls_mode tls_mode;
bool read_only;

static SSL_CTX *tls_context;

const struct lie_row lies[LIE_COUNT] = {
	[LIE_CLIENT_FLAGS] = {"client-flags-accepted", "H05", "fail", "unix"},
	[LIE_ZEROES] = {"zeroes-after-no-zeroes", "H10", "fail", "unix"},
	[LIE_ABORT] = {"abort-unanswered", "H16", "fail", "unix"},
	[LIE_UNKNOWN_ACKED] = {"unknown-option-acked", "O11", "fail", "unix"},
	/* "Every errored option is drained exactly once, on every path, trailing bytes included" */
	[LIE_UNDRAINED] = {"unknown-option-undrained", "O13", "fail", "unix"},
	[LIE_UNDRAINED_LIST] = {"list-undrained", "O10", "warn", "unix"},
	[LIE_DRAINED_TWICE] = {"info-drained-twice", "I24", "fail", "unix"},
	[LIE_UNDRAINED_QUERY] = {"query-undrained", "M12", "warn", "unix"},
	[LIE_INFO_BARE] = {"info-without-export", "I01", "fail", "unix"},
	[LIE_INFO_DIFFERS] = {"go-differs-from-info", "I09", "fail", "unix"},
	[LIE_PREFERRED] = {"preferred-not-power-of-2", "I14", "fail", "unix"},
	[LIE_GO_PADDING] = {"padding-after-go", "I30", "fail", "unix"},
	/* "SEND_DF is clear, in INFO too, until structured or extended replies are on" */
	[LIE_DF_IN_GO] = {"df-without-structured", "I32", "fail", "unix"},
	[LIE_DF_IN_INFO] = {"df-in-info", "I33", "fail", "unix"},
	[LIE_STRUCTURED_DATA] = {"structured-with-data-acked", "O25", "warn", "unix"},
	/* "Error strings are valid UTF-8 without NUL, at most 4,096 bytes" */
	[LIE_RAW_NAME] = {"raw-name-echoed", "O19", "fail", "unix"},
	[LIE_NUL_NAME] = {"nul-echoed", "O20", "fail", "unix"},
	[LIE_LONG_MESSAGE] = {"long-message", "O21", "fail", "unix"},
	/* "TCP_NODELAY from accept on" */
	[LIE_NAGLE] = {"nagle", "H20", "warn", "tcp"},
	/* "A failed SET_META_CONTEXT clears the earlier selection too. INFO, LIST, … must not" */
	[LIE_SET_KEEPS] = {"failed-set-keeps", "M31", "fail", "unix"},
	[LIE_INFO_CLEARS] = {"info-clears", "M33", "fail", "unix"},
	[LIE_LIST_CLEARS] = {"list-clears", "M34", "fail", "unix"},
	[LIE_UNKNOWN_CLEARS] = {"info-of-unknown-clears", "M35", "fail", "unix"},
	[LIE_GO_CLEARS] = {"go-of-unknown-clears", "M36", "fail", "unix"},
	/* "base: selects nothing in SET but is a wildcard in LIST. Unknown namespaces or leaves get
	   ACK" */
	[LIE_BASE_SELECTS] = {"base-selects", "M22", "fail", "unix"},
	[LIE_BASE_LISTS_NOTHING] = {"base-lists-nothing", "M02", "fail", "unix"},
	[LIE_NAMESPACE_ERROR] = {"unknown-namespace-refused", "M23", "fail", "unix"},
	[LIE_LEAF_ERROR] = {"unknown-leaf-refused", "M24", "fail", "unix"},
	[LIE_MALFORMED_ACKED] = {"malformed-query-acked", "M09", "fail", "unix"},
	/* "STARTTLS forgets all that was negotiated" */
	[LIE_KEEPS_STRUCTURED] = {"starttls-keeps-structured", "T06", "fail", "allow"},
	[LIE_KEEPS_CONTEXTS] = {"starttls-keeps-contexts", "T07", "fail", "allow"},
	[LIE_KEEPS_EXTENDED] = {"starttls-keeps-extended", "T08", "fail", "allow"},
	[LIE_KEEPS_PLAINTEXT] = {"starttls-keeps-plaintext", "T09", "fail", "allow"},
	/* "FORCEDTLS: only STARTTLS and ABORT pass in the clear. A client that is not
	   fixed-newstyle …" */
	[LIE_FORCED_LIST] = {"structured-in-the-clear", "T22", "fail", "require"},
	[LIE_FORCED_EXPORT_NAME] = {"export-name-in-the-clear", "T25", "fail", "require"},
	[LIE_FORCED_OLD_CLIENT] = {"tls-reqd-to-old-client", "T28", "fail", "require"},
	/* "under TLS the TLS session is closed too"; "a refused WRITE over TLS" */
	[LIE_NO_GOODBYE] = {"no-close-notify", "T36", "fail", "require"},
	[LIE_TLS_UNDRAINED] = {"refused-write-undrained-tls", "T34", "warn", "require"},
	[LIE_COOKIE] = {"wrong-cookie", "R03", "fail", "unix"},
	/* "DISC: everything in flight is handled before closing" */
	[LIE_DISC_DROPS] = {"disc-drops-replies", "R32", "fail", "unix"},
	[LIE_DISC_REPLIES] = {"reply-after-disc", "R30", "fail", "unix"},
	/* "FUA is accepted on every command when advertised; unknown flags are rejected" */
	[LIE_FUA_REFUSED] = {"fua-on-read-refused", "F02", "fail", "unix"},
	[LIE_UNKNOWN_FLAG] = {"unknown-flag-accepted", "F10", "warn", "unix"},
	[LIE_CACHE_FLAG] = {"unknown-flag-on-cache-accepted", "F15", "fail", "unix"},
	/* "Write or zero past the end: ENOSPC; read, trim, status past the end: EINVAL. ENOTSUP
	   only …" */
	[LIE_WRITE_END] = {"write-past-end-einval", "E04", "warn", "unix"},
	[LIE_ZEROES_END] = {"zeroes-past-end-einval", "E07", "warn", "unix"},
	[LIE_READ_END] = {"read-past-end-enospc", "E01", "warn", "unix"},
	[LIE_TRIM_END] = {"trim-past-end-enospc", "E10", "warn", "unix"},
	[LIE_STATUS_END] = {"status-past-end-enospc", "B17", "warn", "unix"},
	[LIE_ENOTSUP] = {"zeroes-enotsup", "R26", "fail", "unix"},
	[LIE_WRAP] = {"range-wraps", "E06", "fail", "unix"},
	[LIE_READ_ONLY_WRITES] = {"read-only-writes", "E31", "fail", "read-only"},
	[LIE_READ_ONLY_EINVAL] = {"read-only-einval", "E28", "warn", "read-only"},
	[LIE_ZEROES_KEEP] = {"zeroes-keep-data", "R19", "fail", "unix"},
	[LIE_ZEROES_SPILL] = {"zeroes-round-outwards", "R20", "fail", "unix"},
	/* "TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS lengths are not bound by the payload limit"
	 */
	[LIE_TRIM_BOUND] = {"trim-bound-by-payload", "L07", "warn", "unix"},
	[LIE_ZEROES_BOUND] = {"zeroes-bound-by-payload", "L08", "warn", "unix"},
	[LIE_CACHE_BOUND] = {"cache-bound-by-payload", "L09", "warn", "unix"},
	[LIE_STATUS_BOUND] = {"status-bound-by-payload", "L10", "warn", "unix"},
	/* "Announced but unsent 32 MiB writes must not be given their memory at once" */
	[LIE_EAGER_MEMORY] = {"memory-for-announced-writes", "Z27", "warn", "unix"},
	/* "A reset with reads in flight, a client that hangs up at any byte" */
	[LIE_RESET_KILLS] = {"reset-kills-server", "Z13", "fail", "unix"},
	[LIE_HANGUP_KILLS] = {"hang-up-kills-server", "Z11", "fail", "unix"},
	[LIE_FLUSH_FORGETS] = {"flush-forgets-other-connection", "C02", "fail", "unix"},
	[LIE_FUA_FORGETS] = {"fua-forgets-other-connection", "C03", "fail", "unix"},
	/* "With structured replies, READ errors are chunks too" */
	[LIE_SIMPLE_ERROR] = {"simple-error-to-read", "S18", "fail", "unix"},
	[LIE_SHORT_READ] = {"read-not-covered", "S02", "fail", "unix"},
	[LIE_OVERLAP] = {"chunks-overlap", "S03", "fail", "unix"},
	[LIE_OUTSIDE] = {"chunk-outside-request", "S04", "fail", "unix"},
	[LIE_EMPTY_HOLE] = {"hole-of-length-0", "S05", "fail", "unix"},
	[LIE_REPLY_FLAG] = {"unknown-reply-flag", "S06", "fail", "unix"},
	[LIE_UNALIGNED_HOLE] = {"unaligned-hole", "S08", "warn", "unix"},
	[LIE_DF_FRAGMENTS] = {"df-fragments", "S14", "fail", "unix"},
	[LIE_DATA_AS_HOLE] = {"data-as-hole", "S13", "fail", "unix"},
	[LIE_AFTER_DONE] = {"chunk-after-done", "S09", "fail", "unix"},
	[LIE_ERROR_MESSAGE] = {"error-chunk-not-utf8", "S21", "fail", "unix"},
	[LIE_EMPTY_EXTENT] = {"extent-of-length-0", "B02", "fail", "unix"},
	[LIE_REQ_ONE_TWO] = {"req-one-ignored", "B09", "fail", "unix"},
	[LIE_REQ_ONE_LONG] = {"req-one-too-long", "B08", "fail", "unix"},
	[LIE_DATA_AS_ZERO] = {"data-as-zero-extent", "B12", "fail", "unix"},
	[LIE_PAST_EXPORT] = {"extent-past-export", "B06", "fail", "unix"},
	[LIE_NO_HOLE_HOLE] = {"hole-after-no-hole", "B15", "fail", "unix"},
	/* "Extended headers: every reply is extended and echoes the offset; PAYLOAD_LEN is required
	   …" */
	[LIE_EXT_STRUCTURED] = {"structured-after-extended", "X04", "fail", "unix"},
	[LIE_EXT_ECHO] = {"extended-offset-not-echoed", "X08", "fail", "unix"},
	[LIE_EXT_ERROR_ECHO] = {"extended-error-offset-not-echoed", "X13", "fail", "unix"},
	[LIE_EXT_SIMPLE] = {"simple-error-among-extended", "X12", "fail", "unix"},
	[LIE_EXT_UNFLAGGED] = {"write-without-payload-len", "X15", "warn", "unix"},
	[LIE_EXT_UNDRAINED] = {"extended-payload-undrained", "X16", "warn", "unix"},
	[LIE_EXT_CUT] = {"length-cut-to-32-bits", "X23", "warn", "unix"},
};

const size_t lie_count = LIE_COUNT;
const char liar_options[] = "[--allow-tls|--require-tls] [--read-only]";

bool
take_bytes(struct peer *p, void *bytes, size_t length)
{
	uint8_t *at = bytes;
	while (length > 0) {
		size_t part = length < 1 << 20 ? length : 1 << 20;
		ssize_t n =
			p->ssl != NULL ? SSL_read(p->ssl, at, (int)part) : recv(p->fd, at, part, 0);
		if (n < 0 && p->ssl == NULL && errno == EINTR)
			continue;
		if (n <= 0) {
			if (lying(LIE_HANGUP_KILLS) && length > 1)
				raise(SIGKILL);
			return false;
		}
		at += n;
		length -= (size_t)n;
	}
	return true;
}

bool
give_bytes(struct peer *p, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;
	while (length > 0) {
		size_t part = length < 1 << 20 ? length : 1 << 20;
		ssize_t n = p->ssl != NULL ? SSL_write(p->ssl, at, (int)part)
					   : send(p->fd, at, part, MSG_NOSIGNAL);
		if (n < 0 && p->ssl == NULL && errno == EINTR)
			continue;
		if (n <= 0) {
			if (lying(LIE_RESET_KILLS))
				raise(SIGKILL);
			return false;
		}
		at += n;
		length -= (size_t)n;
	}
	return true;
}

bool
drain(struct peer *p, uint64_t length)
{
	uint8_t sink[65536];
	while (length > 0) {
		size_t part = length < sizeof sink ? (size_t)length : sizeof sink;
		if (!take_bytes(p, sink, part))
			return false;
		length -= part;
	}
	return true;
}

bool
start_tls(struct peer *p)
{
	SSL *ssl = SSL_new(tls_context);
	if (ssl == NULL || SSL_set_fd(ssl, p->fd) != 1 || SSL_accept(ssl) != 1) {
		SSL_free(ssl);
		return false;
	}
	p->ssl = ssl;
	return true;
}

void
liar_serve(int fd)
{
	struct peer *p = calloc(1, sizeof *p);
	int one = 1;
	if (p == NULL) {
		close(fd);
		return;
	}
	p->fd = fd;
	STAILQ_INIT(&p->held);
	if (!lying(LIE_NAGLE))
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (negotiate(p))
		transmit(p);
	if (p->ssl != NULL) {
		if (!lying(LIE_NO_GOODBYE))
			SSL_shutdown(p->ssl);
		SSL_free(p->ssl);
	}
	/* Unread input would turn the close into a reset, and take replies back. */
	shutdown(p->fd, SHUT_WR);
	close(p->fd);
	free(p->kept);
	free(p);
}

/* A certificate for nobody, made on the spot. */
static bool
make_tls_context(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	tls_context = SSL_CTX_new(TLS_server_method());
	if (key == NULL || cert == NULL || tls_context == NULL)
		return false;
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
	X509_set_pubkey(cert, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
		(const unsigned char *)"liar", -1, -1, 0);
	X509_set_issuer_name(cert, X509_get_subject_name(cert));
	bool made = X509_sign(cert, key, EVP_sha256()) != 0 &&
		    SSL_CTX_use_certificate(tls_context, cert) == 1 &&
		    SSL_CTX_use_PrivateKey(tls_context, key) == 1;
	SSL_CTX_set_min_proto_version(tls_context, TLS1_2_VERSION);
	X509_free(cert);
	EVP_PKEY_free(key);
	return made;
}

bool
liar_option(const char *word)
{
	if (strcmp(word, "--allow-tls") == 0)
		tls_mode = TLS_ALLOW;
	else if (strcmp(word, "--require-tls") == 0)
		tls_mode = TLS_REQUIRE;
	else if (strcmp(word, "--read-only") == 0)
		read_only = true;
	else
		return false;
	return true;
}

bool
liar_prepare(void)
{
	return tls_mode == TLS_OFF || make_tls_context();
}
