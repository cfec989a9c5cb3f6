/*
 * Replays inputs through a fuzz target: the files and directories given, else the committed corpus
 * of the target's name. Each directory is one test of TAP.
 */
#include "config.h"

#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1024 * 1024)

static unsigned inputs;

static void
run_file(const char *path)
{
	static uint8_t buffer[INPUT_MAX];
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	size_t size;

	if (!file) {
		perror(path);
		exit(1);
	}
	size = fread(buffer, 1, sizeof(buffer), file);
	fclose(file);
	/* Of its own size, so that a sanitizer sees who reads behind it. */
	data = malloc(size ? size : 1);
	if (!data)
		exit(1);
	memcpy(data, buffer, size);
	printf("# %s: %zu bytes\n", path, size);
	fflush(stdout);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	inputs++;
}

static void
run_path(const char *path)
{
	struct dirent **names;
	struct stat st;
	char *name;
	int n;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
		run_file(path);
		return;
	}
	n = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.' &&
			asprintf(&name, "%s/%s", path, names[i]->d_name) > 0) {
			run_file(name);
			free(name);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

int
main(int argc, char **argv)
{
	const char *source = getenv("SLABD_SOURCE");
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	char *corpus;

	for (int i = 1; i < argc; i++)
		run_path(argv[i]);
	if (argc == 1 &&
		asprintf(&corpus, "%s/tests/fuzz/corpus/%s", source ? source : ".", name) > 0) {
		run_path(corpus);
		free(corpus);
	}
	printf("%s 1 - %s: %u inputs\n1..1\n", inputs ? "ok" : "not ok", name, inputs);
	return inputs ? 0 : 1;
}
