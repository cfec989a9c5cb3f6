#include "config.h"

#include "shell.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"

/* The last line printed, without its end; "" without any. */
static char last_line[300];

static int
run(const char *command, bool quiet)
{
	FILE *pipe = popen(command, "re");

	last_line[0] = '\0';
	if (!pipe)
		return -1;
	while (fgets(last_line, sizeof(last_line), pipe)) {
		last_line[strcspn(last_line, "\n")] = '\0';
		if (!quiet)
			tap_note("%s", last_line);
	}
	return pclose(pipe);
}

int
shell(const char *format, ...)
{
	char command[600];
	va_list ap;
	int length;

	va_start(ap, format);
	length = vsnprintf(command, sizeof(command) - 16, format, ap);
	va_end(ap);
	if (length < 0 || (size_t)length >= sizeof(command) - 16)
		return -1;
	strcpy(command + length, " 2>&1");
	return run(command, false);
}

bool
shell_attach_loop(const char *file, char device[64])
{
	char command[300];

	snprintf(command, sizeof(command), "losetup -f --show %s 2>&1", file);
	if (run(command, true) == 0 && sscanf(last_line, "%63[/a-z0-9]", device) == 1)
		return true;
	tap_note("losetup: %s", last_line);
	device[0] = '\0';
	return false;
}
