#include "config.h"
#include "liar.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum lie the_lie;
enum tls_mode tls_mode;
bool read_only;

static SSL_CTX *tls_context;

/* How nbd_lies.sh must set the scene for a lie to show. */
enum scene { UNIX, TCP, ALLOW, REQUIRE, READONLY };

static const struct {
	const char *name;
	const char *check;   /* that must catch it */
	const char *verdict; /* fail or warn, as the sentence says MUST or SHOULD */
	enum scene scene;
} lies[LIE_COUNT] = {
	[LIE_CLIENT_FLAGS] = {"client-flags-accepted", "H05", "fail", UNIX},
	[LIE_ZEROES] = {"zeroes-after-no-zeroes", "H10", "fail", UNIX},
	[LIE_ABORT] = {"abort-unanswered", "H16", "fail", UNIX},
	[LIE_UNKNOWN_ACKED] = {"unknown-option-acked", "O11", "fail", UNIX},
	/* "Every errored option is drained exactly once, on every path, trailing bytes included" */
	[LIE_UNDRAINED] = {"unknown-option-undrained", "O13", "fail", UNIX},
	[LIE_UNDRAINED_LIST] = {"list-undrained", "O10", "warn", UNIX},
	[LIE_DRAINED_TWICE] = {"info-drained-twice", "I24", "fail", UNIX},
	[LIE_UNDRAINED_QUERY] = {"query-undrained", "M12", "warn", UNIX},
	[LIE_INFO_BARE] = {"info-without-export", "I01", "fail", UNIX},
	[LIE_INFO_DIFFERS] = {"go-differs-from-info", "I09", "fail", UNIX},
	[LIE_PREFERRED] = {"preferred-not-power-of-2", "I14", "fail", UNIX},
	[LIE_GO_PADDING] = {"padding-after-go", "I30", "fail", UNIX},
	/* "SEND_DF is clear, in INFO too, until structured or extended replies are on" */
	[LIE_DF_IN_GO] = {"df-without-structured", "I32", "fail", UNIX},
	[LIE_DF_IN_INFO] = {"df-in-info", "I33", "fail", UNIX},
	[LIE_STRUCTURED_DATA] = {"structured-with-data-acked", "O25", "warn", UNIX},
	/* "Error strings are valid UTF-8 without NUL, at most 4,096 bytes" */
	[LIE_RAW_NAME] = {"raw-name-echoed", "O19", "fail", UNIX},
	[LIE_NUL_NAME] = {"nul-echoed", "O20", "fail", UNIX},
	[LIE_LONG_MESSAGE] = {"long-message", "O21", "fail", UNIX},
	/* "TCP_NODELAY from accept on" */
	[LIE_NAGLE] = {"nagle", "H20", "warn", TCP},
	/* "A failed SET_META_CONTEXT clears the earlier selection too. INFO, LIST, … must not" */
	[LIE_SET_KEEPS] = {"failed-set-keeps", "M31", "fail", UNIX},
	[LIE_INFO_CLEARS] = {"info-clears", "M33", "fail", UNIX},
	[LIE_LIST_CLEARS] = {"list-clears", "M34", "fail", UNIX},
	[LIE_UNKNOWN_CLEARS] = {"info-of-unknown-clears", "M35", "fail", UNIX},
	[LIE_GO_CLEARS] = {"go-of-unknown-clears", "M36", "fail", UNIX},
	/* "base: selects nothing in SET but is a wildcard in LIST. Unknown namespaces or leaves get
	   ACK" */
	[LIE_BASE_SELECTS] = {"base-selects", "M22", "fail", UNIX},
	[LIE_BASE_LISTS_NOTHING] = {"base-lists-nothing", "M02", "fail", UNIX},
	[LIE_NAMESPACE_ERROR] = {"unknown-namespace-refused", "M23", "fail", UNIX},
	[LIE_LEAF_ERROR] = {"unknown-leaf-refused", "M24", "fail", UNIX},
	[LIE_MALFORMED_ACKED] = {"malformed-query-acked", "M09", "fail", UNIX},
	/* "STARTTLS forgets all that was negotiated" */
	[LIE_KEEPS_STRUCTURED] = {"starttls-keeps-structured", "T06", "fail", ALLOW},
	[LIE_KEEPS_CONTEXTS] = {"starttls-keeps-contexts", "T07", "fail", ALLOW},
	[LIE_KEEPS_EXTENDED] = {"starttls-keeps-extended", "T08", "fail", ALLOW},
	[LIE_KEEPS_PLAINTEXT] = {"starttls-keeps-plaintext", "T09", "fail", ALLOW},
	/* "FORCEDTLS: only STARTTLS and ABORT pass in the clear. A client that is not
	   fixed-newstyle …" */
	[LIE_FORCED_LIST] = {"structured-in-the-clear", "T22", "fail", REQUIRE},
	[LIE_FORCED_EXPORT_NAME] = {"export-name-in-the-clear", "T25", "fail", REQUIRE},
	[LIE_FORCED_OLD_CLIENT] = {"tls-reqd-to-old-client", "T28", "fail", REQUIRE},
	/* "under TLS the TLS session is closed too"; "a refused WRITE over TLS" */
	[LIE_NO_GOODBYE] = {"no-close-notify", "T36", "fail", REQUIRE},
	[LIE_TLS_UNDRAINED] = {"refused-write-undrained-tls", "T34", "warn", REQUIRE},
	[LIE_COOKIE] = {"wrong-cookie", "R03", "fail", UNIX},
	/* "DISC: everything in flight is handled before closing" */
	[LIE_DISC_DROPS] = {"disc-drops-replies", "R32", "fail", UNIX},
	[LIE_DISC_REPLIES] = {"reply-after-disc", "R30", "fail", UNIX},
	/* "FUA is accepted on every command when advertised; unknown flags are rejected" */
	[LIE_FUA_REFUSED] = {"fua-on-read-refused", "F02", "fail", UNIX},
	[LIE_UNKNOWN_FLAG] = {"unknown-flag-accepted", "F10", "warn", UNIX},
	[LIE_CACHE_FLAG] = {"unknown-flag-on-cache-accepted", "F15", "fail", UNIX},
	/* "Write or zero past the end: ENOSPC; read, trim, status past the end: EINVAL. ENOTSUP
	   only …" */
	[LIE_WRITE_END] = {"write-past-end-einval", "E04", "warn", UNIX},
	[LIE_ZEROES_END] = {"zeroes-past-end-einval", "E07", "warn", UNIX},
	[LIE_READ_END] = {"read-past-end-enospc", "E01", "warn", UNIX},
	[LIE_TRIM_END] = {"trim-past-end-enospc", "E10", "warn", UNIX},
	[LIE_STATUS_END] = {"status-past-end-enospc", "B17", "warn", UNIX},
	[LIE_ENOTSUP] = {"zeroes-enotsup", "R26", "fail", UNIX},
	[LIE_WRAP] = {"range-wraps", "E06", "fail", UNIX},
	[LIE_READ_ONLY_WRITES] = {"read-only-writes", "E31", "fail", READONLY},
	[LIE_READ_ONLY_EINVAL] = {"read-only-einval", "E28", "warn", READONLY},
	[LIE_ZEROES_KEEP] = {"zeroes-keep-data", "R19", "fail", UNIX},
	[LIE_ZEROES_SPILL] = {"zeroes-round-outwards", "R20", "fail", UNIX},
	/* "TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS lengths are not bound by the payload limit"
	 */
	[LIE_TRIM_BOUND] = {"trim-bound-by-payload", "L07", "warn", UNIX},
	[LIE_ZEROES_BOUND] = {"zeroes-bound-by-payload", "L08", "warn", UNIX},
	[LIE_CACHE_BOUND] = {"cache-bound-by-payload", "L09", "warn", UNIX},
	[LIE_STATUS_BOUND] = {"status-bound-by-payload", "L10", "warn", UNIX},
	/* "Announced but unsent 32 MiB writes must not be given their memory at once" */
	[LIE_EAGER_MEMORY] = {"memory-for-announced-writes", "Z27", "warn", UNIX},
	/* "A reset with reads in flight, a client that hangs up at any byte" */
	[LIE_RESET_KILLS] = {"reset-kills-server", "Z13", "fail", UNIX},
	[LIE_HANGUP_KILLS] = {"hang-up-kills-server", "Z11", "fail", UNIX},
	[LIE_FLUSH_FORGETS] = {"flush-forgets-other-connection", "C02", "fail", UNIX},
	[LIE_FUA_FORGETS] = {"fua-forgets-other-connection", "C03", "fail", UNIX},
	/* "With structured replies, READ errors are chunks too" */
	[LIE_SIMPLE_ERROR] = {"simple-error-to-read", "S18", "fail", UNIX},
	[LIE_SHORT_READ] = {"read-not-covered", "S02", "fail", UNIX},
	[LIE_OVERLAP] = {"chunks-overlap", "S03", "fail", UNIX},
	[LIE_OUTSIDE] = {"chunk-outside-request", "S04", "fail", UNIX},
	[LIE_EMPTY_HOLE] = {"hole-of-length-0", "S05", "fail", UNIX},
	[LIE_REPLY_FLAG] = {"unknown-reply-flag", "S06", "fail", UNIX},
	[LIE_UNALIGNED_HOLE] = {"unaligned-hole", "S08", "warn", UNIX},
	[LIE_DF_FRAGMENTS] = {"df-fragments", "S14", "fail", UNIX},
	[LIE_DATA_AS_HOLE] = {"data-as-hole", "S13", "fail", UNIX},
	[LIE_AFTER_DONE] = {"chunk-after-done", "S09", "fail", UNIX},
	[LIE_ERROR_MESSAGE] = {"error-chunk-not-utf8", "S21", "fail", UNIX},
	[LIE_EMPTY_EXTENT] = {"extent-of-length-0", "B02", "fail", UNIX},
	[LIE_REQ_ONE_TWO] = {"req-one-ignored", "B09", "fail", UNIX},
	[LIE_REQ_ONE_LONG] = {"req-one-too-long", "B08", "fail", UNIX},
	[LIE_DATA_AS_ZERO] = {"data-as-zero-extent", "B12", "fail", UNIX},
	[LIE_PAST_EXPORT] = {"extent-past-export", "B06", "fail", UNIX},
	[LIE_NO_HOLE_HOLE] = {"hole-after-no-hole", "B15", "fail", UNIX},
	/* "Extended headers: every reply is extended and echoes the offset; PAYLOAD_LEN is required
	   …" */
	[LIE_EXT_STRUCTURED] = {"structured-after-extended", "X04", "fail", UNIX},
	[LIE_EXT_ECHO] = {"extended-offset-not-echoed", "X08", "fail", UNIX},
	[LIE_EXT_ERROR_ECHO] = {"extended-error-offset-not-echoed", "X13", "fail", UNIX},
	[LIE_EXT_SIMPLE] = {"simple-error-among-extended", "X12", "fail", UNIX},
	[LIE_EXT_UNFLAGGED] = {"write-without-payload-len", "X15", "warn", UNIX},
	[LIE_EXT_UNDRAINED] = {"extended-payload-undrained", "X16", "warn", UNIX},
	[LIE_EXT_CUT] = {"length-cut-to-32-bits", "X23", "warn", UNIX},
};

uint64_t
load(const uint8_t *bytes, size_t length)
{
	uint64_t value = 0;
	for (size_t i = 0; i < length; i++)
		value = value << 8 | bytes[i];
	return value;
}

uint8_t *
store(uint8_t *bytes, uint64_t value, size_t length)
{
	for (size_t i = length; i-- > 0; value >>= 8)
		bytes[i] = (uint8_t)value;
	return bytes + length;
}

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

static void *
serve(void *arg)
{
	struct peer *p = arg;
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
	return NULL;
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

static int
listen_unix(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
		listen(fd, 128) != 0)
		return -1;
	return fd;
}

/* On a port of the kernel's choice, which is printed. */
static int
listen_tcp(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
		listen(fd, 128) != 0 || getsockname(fd, (struct sockaddr *)&address, &length) != 0)
		return -1;
	printf("%d\n", ntohs(address.sin_port));
	return fd;
}

static void
accept_forever(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;
		struct peer *p = fd >= 0 ? calloc(1, sizeof *p) : NULL;
		pthread_t thread;
		if (p == NULL)
			continue;
		p->fd = fd;
		STAILQ_INIT(&p->held);
		if (!lying(LIE_NAGLE))
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (pthread_create(&thread, NULL, serve, p) == 0) {
			pthread_detach(thread);
		} else {
			close(fd);
			free(p);
		}
	}
}

static void
print_lies(void)
{
	static const char *const scenes[] = {"unix", "tcp", "allow", "require", "read-only"};
	for (int i = NO_LIE + 1; i < LIE_COUNT; i++)
		printf("%s %s %s %s\n", lies[i].name, lies[i].check, lies[i].verdict,
			scenes[lies[i].scene]);
}

static bool
choose_lie(const char *name)
{
	for (int i = NO_LIE + 1; i < LIE_COUNT; i++)
		if (strcmp(lies[i].name, name) == 0)
			the_lie = (enum lie)i;
	return the_lie != NO_LIE;
}

int
main(int argc, char **argv)
{
	const char *address = NULL;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--list") == 0) {
			print_lies();
			return 0;
		} else if (strcmp(argv[i], "--lie") == 0 && i + 1 < argc) {
			if (!choose_lie(argv[++i]))
				return 2;
		} else if (strcmp(argv[i], "--allow-tls") == 0) {
			tls_mode = TLS_ALLOW;
		} else if (strcmp(argv[i], "--require-tls") == 0) {
			tls_mode = TLS_REQUIRE;
		} else if (strcmp(argv[i], "--read-only") == 0) {
			read_only = true;
		} else {
			address = argv[i];
		}
	}
	if (address == NULL) {
		fprintf(stderr,
			"usage: liar [--lie NAME] [--allow-tls|--require-tls] [--read-only] "
			"PATH|tcp\n       liar --list\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (tls_mode != TLS_OFF && !make_tls_context())
		return 1;
	int fd = strcmp(address, "tcp") == 0 ? listen_tcp() : listen_unix(address);
	if (fd < 0) {
		perror(address);
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	accept_forever(fd);
}
