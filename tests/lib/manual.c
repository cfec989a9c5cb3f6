#include "config.h"

#include "manual.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *
read_page(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;

	if (!file)
		return NULL;
	if (getdelim(&text, &room, '\0', file) < 0) {
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}

/* Copies the page with each list made anew. */
static char *
renew_page(const char *page, const struct manual_list *lists, size_t nlists)
{
	char *made = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&made, &length);

	assert_non_null(out);
	for (size_t i = 0; i < nlists; i++) {
		char marker[128];
		const char *start, *end;

		snprintf(marker, sizeof(marker), ".\\\" keys: %s\n", lists[i].name);
		start = strstr(page, marker);
		if (!start)
			fail_msg("the manual has no \"%s\"", marker);
		start += strlen(marker);
		end = strstr(start, ".\\\" end\n");
		assert_non_null(end);
		fwrite(page, 1, (size_t)(start - page), out);
		lists[i].write(lists[i].arg, out);
		page = end;
	}
	fputs(page, out);
	fclose(out);
	return made;
}

void
manual_check(const char *page, const struct manual_list *lists, size_t nlists)
{
	const char *source = getenv("SLABD_SOURCE");
	char path[4096], *old, *made;

	snprintf(path, sizeof(path), "%s/%s", source ? source : ".", page);
	old = read_page(path);
	if (!old)
		skip();
	made = renew_page(old, lists, nlists);
	if (strcmp(old, made) != 0 && getenv("SLABD_UPDATE_MANUAL")) {
		FILE *file = fopen(path, "we");

		assert_non_null(file);
		fputs(made, file);
		assert_int_equal(fclose(file), 0);
	} else if (strcmp(old, made) != 0) {
		fail_msg(
			"%s is not what the table says: SLABD_UPDATE_MANUAL=1 and this test write it",
			page);
	}
	free(old);
	free(made);
}
