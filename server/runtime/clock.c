#include "config.h"

#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "check.h"
#include "limits.h"

uint64_t
clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

uint64_t
clock_wall(void)
{
	return (uint64_t)time(NULL);
}

static void
fill_random(void *data, size_t length)
{
	size_t done = 0;
	ssize_t n;

	while (done < length) {
		n = getrandom((char *)data + done, length - done, 0);
		/* Going on without randomness would be worse than ending. */
		CHECK(n > 0 || errno == EINTR);
		if (n > 0)
			done += (size_t)n;
	}
}

/* Most callers want 4 to 16 bytes: the kernel is asked for 256 at a time. What was given is wiped.
 */
void
loop_random(void *data, size_t length)
{
	static _Thread_local uint8_t pool[256];
	static _Thread_local size_t left;

	if (length > sizeof(pool)) {
		fill_random(data, length);
		return;
	}
	if (left < length) {
		fill_random(pool, sizeof(pool));
		left = sizeof(pool);
	}
	left -= length;
	memcpy(data, pool + left, length);
	explicit_bzero(pool + left, length);
}
