#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "../../server/config_load.h"
#include "alua.h"
#include "check.h"

static const char whole[] =
	"volumes:\n"
	"  db:   {backend: file, path: \"/srv/db \\\"x\\\".img\", size: 10G}\n"
	"  tmp:  {backend: memory, size: 4G, block_size: 4096, vendor: ACME}\n"
	"nbd:\n"
	"  listen: [\"127.0.0.1:10810\", {address: \"unix:/run/slabd/nbd.sock\"}]\n"
	"  exports:\n"
	"    web: {volume: db, description: \"the web tier\", read_only: on, hidden: off, default: on}\n"
	"    tmp: {}\n"
	"    short: db\n"
	"iscsi:\n"
	"  listen: [{address: \"127.0.0.1:3260\", group: 7, advertise: \"192.0.2.7:3260\"}]\n"
	"  targets:\n"
	"    iqn.2026-11.net.example:db:\n"
	"      luns: {3: db, 1: {volume: tmp, read_only: on}}\n"
	"      alua: {7: standby}\n"
	"limits: {connections: 77, handshakes_per_address: 7}\n"
	"control: /run/x.sock\n"
	"loops: 3\n"
	"insecure: on\n";

static void
read_text(struct config *config, const char *text)
{
	assert_true(config_init(config));
	config_read_text(config, "f.yaml", text, strlen(text));
}

static void
whole_file_is_read(void **state)
{
	struct config config;
	const struct conf *conf = &config.conf;

	(void)state;
	read_text(&config, whole);
	assert_true(config_finish(&config));
	assert_int_equal(conf->nvolumes, 2);
	assert_string_equal(conf->volumes[0].path, "/srv/db \"x\".img");
	assert_int_equal(conf->volumes[1].physical_block_size, 4096);
	assert_int_equal(conf->nnbd_listen, 2);
	assert_string_equal(conf->nbd_listen[1].address, "unix:/run/slabd/nbd.sock");
	assert_int_equal(conf->nexports, 3);
	assert_string_equal(conf->exports[0].description, "the web tier");
	assert_true(conf->exports[0].is_default && conf->exports[0].read_only);
	assert_string_equal(conf->exports[1].volume, "tmp");
	assert_string_equal(conf->exports[2].volume, "db");
	assert_int_equal(conf->iscsi_listen[0].group, 7);
	assert_string_equal(conf->iscsi_listen[0].advertise, "192.0.2.7:3260");
	assert_int_equal(conf->targets[0].nluns, 2);
	assert_int_equal(conf->targets[0].luns[0].number, 1);
	assert_true(conf->targets[0].luns[0].read_only);
	assert_string_equal(conf->targets[0].luns[1].volume, "db");
	assert_int_equal(conf->targets[0].ngroups, 1);
	assert_int_equal(conf->targets[0].groups[0].group, 7);
	assert_int_equal(conf->targets[0].groups[0].state, ALUA_STANDBY);
	assert_int_equal(conf->connections, 77);
	assert_int_equal(conf->handshakes_per_address, 7);
	assert_int_equal(conf->loops, 3);
	assert_true(conf->insecure);
	assert_string_equal(conf->control, "/run/x.sock");
	config_free(&config);
}

static char *
print_text(const struct conf *conf)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);

	assert_non_null(out);
	config_print(conf, out);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void
assert_prints_back(const char *text)
{
	struct config first, second;
	char *printed, *again;

	read_text(&first, text);
	assert_true(config_finish(&first));
	printed = print_text(&first.conf);
	read_text(&second, printed);
	if (!config_finish(&second))
		fail_msg("%s: %s", second.problems[0].text, printed);
	again = print_text(&second.conf);
	assert_string_equal(printed, again);
	free(printed);
	free(again);
	config_free(&first);
	config_free(&second);
}

static void
what_is_printed_reads_back(void **state)
{
	(void)state;
	assert_prints_back(whole);
	assert_prints_back(
		"volumes: {\"null\": {backend: \"null\", size: 1T, serial: \"on\"}, \"1\": "
		"{backend: memory, size: 512}}\niscsi: {listen: none}\ncontrol: none\n");
	assert_prints_back(
		"volumes: {a: {backend: file, path: \"a\\tb\\\\c: # \\u00e9\", size: 0}}\n"
		"nbd: {listen: []}\n");
}

/* Each kind of mistake, and where it is. One problem each, so that none hides another. */
static const struct {
	const char *text;
	unsigned line, column;
	const char *problem;
} bad[] = {
#define V "volumes: {a: {backend: memory, size: 1G}}\n"
	{"volumes:\n  web: {backend: file, path: /srv/web.img, sise: 10G}\n", 2, 44,
		"unknown key \"sise\" in volume \"web\" (did you mean \"size\"?)"},
	{V "volume: {}\n", 2, 1, "unknown key \"volume\" (did you mean \"volumes\"?)"},
	{V "foo: {}\n", 2, 1, "unknown key \"foo\""},
	{V "limits: {connection: 5}\n", 2, 10,
		"unknown key \"connection\" in limits (did you mean \"connections\"?)"},
	{"volumes: {a: {backend: memory, size: 4Q}}\n", 1, 38,
		"size of volume \"a\": \"4Q\" is not a size (give bytes, or a number with K, M, G, T or P)"},
	{"volumes: {a: {backend: memory, size: [4]}}\n", 1, 32,
		"size of volume \"a\" takes one value, not a list"},
	{"volumes: {a: {backend: memory, size: {}}}\n", 1, 32,
		"size of volume \"a\" takes one value, not a mapping"},
	{"volumes: {a: {backend: memory, size: }}\n", 1, 32, "size of volume \"a\" has no value"},
	{"volumes: {a: {backend: memory, size: 1G, read_only: true}}\n", 1, 53,
		"read_only of volume \"a\": \"true\" is neither on nor off"},
	{"volumes: [a]\n", 1, 1, "volumes takes a mapping, not a list"},
	{"volumes: a\n", 1, 1, "volumes takes a mapping, not a plain value"},
	{"volumes: {a: memory}\n", 1, 11, "volume \"a\" is not a mapping: give its keys"},
	{"volumes: {a: {size: 1G}}\n", 1, 11, "volume a: backend is missing"},
	{"volumes: {a: {backend: memory}}\n", 1, 11, "volume a: a memory volume needs a size"},
	{"volumes: {a: {backend: file, size: 1G}}\n", 1, 24,
		"volume a: a file volume needs a path"},
	{"volumes: {a: {backend: null, size: 1G, path: /x}}\n", 1, 46,
		"volume a: a null volume takes no path"},
	{"volumes: {a: {backend: memry, size: 1G}}\n", 1, 24,
		"volume a: unknown backend \"memry\" (did you mean \"memory\"?)"},
	{"volumes: {a: {backend: device}}\n", 1, 24, "volume a: a device volume needs a path"},
	{"volumes: {a: {backend: device, path: /dev/x, prealloc: on}}\n", 1, 56,
		"volume a: prealloc is for file volumes"},
	{"volumes: {a: {backend: file, path: /x, direct: perhaps}}\n", 1, 48,
		"direct of volume \"a\": \"perhaps\" is none of off, on, auto"},
	{"volumes:\n  a: {backend: memory, size: 1G}\n  a: {backend: memory, size: 2G}\n", 3, 3,
		"volume a is defined twice"},
	{"volumes:\n  a:\n    backend: memory\n    size: 1G\n    size: 2G\n", 5, 5,
		"size of volume \"a\" is given twice"},
	{V "limits: {}\nlimits: {}\n", 3, 1, "limits is given twice"},
	{"volumes: {A: {backend: memory, size: 1G}}\n", 1, 11,
		"volume A: a name is [a-z0-9][a-z0-9.-]*, at most 64 characters"},
	{"volumes: {a: {backend: memory, size: 1G, block_size: 4096, physical_block_size: 512}}\n",
		1, 81,
		"volume a: physical_block_size 512 is not a power of two times block_size 4096"},
	{"volumes: {a: {backend: memory, size: 1000}}\n", 1, 38,
		"volume a: size is not a multiple of block_size 512"},
	{"volumes: {a: {backend: memory, size: 1G, product: abcdefghijklmnopq}}\n", 1, 51,
		"volume a: product has at most 16 printable ASCII characters"},
	{V "nbd: {listen: [\"127.0.0.1:99999\"]}\n", 2, 17,
		"nbd 127.0.0.1:99999: \"99999\" is not a port (0 to 65535)"},
	{V "nbd: {listen: [\"vsock:x\"]}\n", 2, 17,
		"nbd vsock:x: \"x\" is not a vsock port (1 to 4294967294)"},
	{V "nbd: {listen: [\"h:1\", \"h:1\"]}\n", 2, 24, "nbd h:1 is listed twice"},
	{V "nbd: {listen: [{}]}\n", 2, 7, "nbd listener: address is missing"},
	{V "nbd: {listen: {a: b}}\n", 2, 7, "listen of nbd takes a list, not a mapping"},
	{V "iscsi: {listen: [\"unix:/x\"]}\n", 2, 19,
		"iscsi unix:/x: iSCSI is served over TCP only"},
	{V "iscsi: {listen: [{address: \"h:1\", group: 0}]}\n", 2, 42,
		"group of iSCSI listener: 0 is out of range (1 to 65535)"},
	{V "iscsi: {listen: [{address: \"h:1\", advertise: \"x\"}]}\n", 2, 47,
		"advertise: \"x\" is not HOST:PORT"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {redirect: {address: \"x\"}}}}\n", 2, 58,
		"redirect: \"x\" is not HOST:PORT"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: a}, redirect: {permanent: on}}}}\n", 2,
		73,
		"redirect of target iqn.2026-11.x:a: address is missing"},
	{V "nbd: {exports: {web: {volume: b}}}\n", 2, 31,
		"export \"web\" names volume \"b\", which is not defined (volumes: a)"},
	{V "nbd: {exports: {web: {}}}\n", 2, 17,
		"export \"web\" names volume \"web\", which is not defined (volumes: a)"},
	{V "nbd: {exports: {x: {volume: a, default: on}, y: {volume: a, default: on}}}\n", 2, 70,
		"export \"y\" is a second default export, after \"x\""},
	{V "nbd: {exports: {x: a, x: a}}\n", 2, 23, "export \"x\" is defined twice"},
	{V "nbd: {exports: {a: {min_block: 3}}}\n", 2, 32,
		"export \"a\": min_block 3 is not a power of two"},
	{V "nbd: {exports: {a: {tls: require}}}\n", 2, 26,
		"export \"a\": the server has no TLS; exports may differ where it allows it"},
	{V "nbd: {exports: {a: {tls: off}}}\ntls: {psk: /k}\n", 2, 26,
		"export \"a\": the server requires TLS; exports may differ where it allows it"},
	{V "nbd: {exports: {a: {tls: maybe}}}\n", 2, 26,
		"tls of export \"a\": \"maybe\" is none of off, allow, require"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: b}}}}\n", 2, 47,
		"LUN 0 of target iqn.2026-11.x:a names volume \"b\", which is not defined (volumes: a)"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: a, 0: a}}}}\n", 2, 50,
		"LUN 0 of target iqn.2026-11.x:a is defined twice"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {16384: a}}}}\n", 2, 44,
		"LUN 16384 of target iqn.2026-11.x:a: a LUN's number is 0 to 16383"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: a}, alua: {9: standby}}}}\n", 2, 58,
		"target iqn.2026-11.x:a: no iSCSI listener is of portal group 9"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: a}, alua: {1: asleep}}}}\n", 2, 61,
		"portal group 1 of alua of target \"iqn.2026-11.x:a\": \"asleep\" is none of "
		"active/optimized, active/non-optimized, standby, unavailable"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {luns: {0: {read_only: on}}}}}\n", 2, 44,
		"LUN 0 of target iqn.2026-11.x:a: volume is missing"},
	{V "iscsi: {targets: {iqn.2026-11.x:a: {}}}\n", 2, 19,
		"target iqn.2026-11.x:a has no luns"},
	{V "iscsi: {targets: {iqn.26-11.x:a: {luns: {0: a}}}}\n", 2, 19,
		"target \"iqn.26-11.x:a\": a name is iqn.YYYY-MM.REVERSED.DOMAIN[:ANYTHING] in lower "
		"case, eui. or naa. with hex digits, at most 223 bytes"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, chap: [{secret: 123456789012}]}}}\n",
		2, 53, "CHAP of target iqn.2026-11.x:a, user ?: user is missing"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, chap: [{user: u}]}}}\n", 2, 53,
		"CHAP of target iqn.2026-11.x:a, user u: needs either secret or secret_file"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, chap: [{user: u, secret: 12345678901}]}}}\n",
		2, 53, "CHAP of target iqn.2026-11.x:a, user u: a secret has 12 to 255 bytes"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, chap: [{user: u, secret: 123456789012, secret_file: /x}]}}}\n",
		2, 53,
		"CHAP of target iqn.2026-11.x:a, user u: needs either secret or secret_file"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, chap: []}}}\n", 2, 53,
		"target iqn.2026-11.x:a: an empty list of users: leave it out to ask for none"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, initiators: []}}}\n", 2, 53,
		"target iqn.2026-11.x:a: initiators names nobody: leave it out to let everyone in"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, initiators: [{luns: {0: a}}]}}}\n",
		2, 53, "an initiator of target iqn.2026-11.x:a has no name"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, initiators: [iqn.a, IQN.A]}}}\n",
		2, 73, "initiator iqn.a is named twice in target iqn.2026-11.x:a"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, initiators: [\"a b\"]}}}\n", 2,
		67, "initiator \"a b\": a name has no spaces and no commas, and at most 223 bytes"},
	{V "iscsi: {targets: {\"iqn.2026-11.x:a\": {luns: {0: a}, initiators: [{name: i, luns: {1: b}}]}}}\n",
		2, 86,
		"LUN 1 of initiator i names volume \"b\", which is not defined (volumes: a)"},
	{V "iscsi: {chap_algorithms: [7, 4]}\n", 2, 30,
		"CHAP algorithm: 4 is out of range (5 to 8)"},
	{V "iscsi: {chap_algorithms: [7, 7]}\n", 2, 30, "CHAP algorithm 7 is named twice"},
	{V "iscsi: {chap_algorithms: []}\n", 2, 9,
		"chap_algorithms: an empty list: nobody could log in"},
	{V "tls: {mode: require}\n", 2, 13,
		"TLS needs a certificate and its key (--tls-cert, --tls-key) or a PSK file "
		"(--tls-psk)"},
	{V "tls: {certificate: /c}\n", 2, 20,
		"a TLS certificate without its key: give --tls-key (tls: key)"},
	{V "tls: {psk: /p, ca: /c}\n", 2, 20,
		"a TLS CA without a certificate: give --tls-cert (tls: certificate)"},
	{V "limits: {connections: 0}\n", 2, 23,
		"connections of limits: 0 is out of range (1 to 16384)"},
	{V "loops: many\n", 2, 8, "loops: \"many\" is not a number"},
	{"volumes: [a\nb: \"c", 2, 5, "double-quoted scalar without closing quote"},
	{"just text\n", 1, 1, "the file is not a mapping: begin with \"volumes:\""},
	{V "---\nfoo: bar\n", 1, 1, "the file holds more than one document"},
	{"volumes: {a: &x {backend: memory, size: 1G}, b: *x}\n", 1, 46,
		"aliases are not taken: write the value"},
	{"volumes: {a: {backend: memory, size: 1G, ? [x] : y}}\n", 1, 11,
		"a key takes one value, not a list"},
};

static void
each_mistake_has_its_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct config config;

		read_text(&config, bad[i].text);
		assert_false(config_finish(&config));
		if (config.nproblems != 1)
			fail_msg("%zu problems in %s: %s, %s", config.nproblems, bad[i].text,
				config.problems[0].text,
				config.nproblems > 1 ? config.problems[1].text : "");
		assert_string_equal(config.problems[0].text, bad[i].problem);
		if (config.problems[0].mark.line != bad[i].line ||
			config.problems[0].mark.column != bad[i].column)
			fail_msg("%s is at %u:%u, not %u:%u", bad[i].problem,
				config.problems[0].mark.line, config.problems[0].mark.column,
				bad[i].line, bad[i].column);
		assert_false(config.usage);
		config_free(&config);
	}
}

static void
line_is_shown_with_a_marker(void **state)
{
	static const char text[] = "# ü\nvolumes:\n  \"ü\": {backend: memory,\tsise: 1G}\n";
	struct config config;
	char *shown = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&shown, &length);

	(void)state;
	read_text(&config, text);
	config_add_volume(&config, "b=memory:x");
	config_print_problems(&config, out);
	fclose(out);
	assert_string_equal(shown,
		"slabd: volume b: size: \"x\" is not a size (give bytes, or a number with K, M, G, T "
		"or P)\n"
		"f.yaml:3:26: unknown key \"sise\" in volume \"ü\" (did you mean \"size\"?)\n"
		"    3 |   \"ü\": {backend: memory, sise: 1G}\n"
		"      |                          ^~~~\n");
	free(shown);
	config_free(&config);
}

/* Whatever the bytes are, the answer is a configuration or a problem. */
static void
garbage_is_survived(void **state)
{
	size_t length = sizeof(whole) - 1;
	const char *given = getenv("SLABD_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : 1;
	char *text = malloc(length);

	(void)state;
	print_message("# seed %u\n", seed);
	srandom(seed);
	for (unsigned i = 0; i < 2000; i++) {
		struct config config;
		char *shown = NULL;
		size_t n = 0;
		FILE *out;

		memcpy(text, whole, length);
		for (unsigned j = 0; j < 1 + i % 5; j++)
			text[(size_t)random() % length] = (char)random();
		assert_true(config_init(&config));
		config_read_text(
			&config, "f.yaml", text, i % 2 ? length : (size_t)random() % length);
		out = open_memstream(&shown, &n);
		if (config_finish(&config))
			config_print(&config.conf, out);
		else
			assert_true(config.nproblems > 0);
		config_print_problems(&config, out);
		fclose(out);
		free(shown);
		config_free(&config);
	}
	free(text);
}

static void
files_that_cannot_be_read(void **state)
{
	struct config config;

	(void)state;
	assert_true(config_init(&config));
	config_read_file(&config, "/nonexistent/slabd.yaml");
	config_read_file(&config, "/");
	assert_int_equal(config.nproblems, 2);
	assert_string_equal(
		config.problems[0].text, "/nonexistent/slabd.yaml: No such file or directory");
	assert_string_equal(config.problems[1].text, "/: Is a directory");
	assert_false(config.usage);
	config_free(&config);
}

static void
command_line_adds_to_the_file(void **state)
{
	struct config config;

	(void)state;
	read_text(&config, whole);
	config_add_volume(&config, "more=memory:1G");
	config_add_volume(&config, "db=memory:1G");
	config_add_listen(&config, "nbd", "127.0.0.1:1");
	assert_false(config_finish(&config));
	assert_int_equal(config.nproblems, 1);
	assert_string_equal(config.problems[0].text, "volume db is defined twice");
	assert_int_equal(config.problems[0].mark.line, 0);
	assert_int_equal(config.conf.nnbd_listen, 3);
	assert_int_equal(config.conf.nvolumes, 4);
	config_free(&config);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_file_is_read),
		cmocka_unit_test(what_is_printed_reads_back),
		cmocka_unit_test(each_mistake_has_its_place),
		cmocka_unit_test(line_is_shown_with_a_marker),
		cmocka_unit_test(garbage_is_survived),
		cmocka_unit_test(files_that_cannot_be_read),
		cmocka_unit_test(command_line_adds_to_the_file),
	};

	return cmocka_run_group_tests_name("config_yaml", tests, NULL, NULL);
}
