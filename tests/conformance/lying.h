/*
 * What the two liars share: a server that tells the truth, or the one lie that its command line names.
 * Each lie breaks a sentence of the standard in a way that servers in use have broken it, and names
 * the check that must see it. A thread per connection; one lie per process.
 */
#ifndef CONFORMANCE_LYING_H
#define CONFORMANCE_LYING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lie_row {
	const char *name;
	const char *check;   /* that must catch it */
	const char *verdict; /* fail or warn, as the sentence says MUST or SHOULD */
	const char *scene;   /* how the test must set the scene for the lie to show */
};

/* Each liar's own; the first row is the truth's, and without a name. */
extern const struct lie_row lies[];
extern const size_t lie_count;
extern size_t the_lie;
/* An option of the command line: false if it is none. */
bool liar_option(const char *word);
extern const char liar_options[]; /* for the usage */
/* Before the first connection. */
bool liar_prepare(void);
/* A new connection, TCP or unix. Its own thread; closes it. */
void liar_serve(int fd);

uint64_t load(const uint8_t *bytes, size_t length);
uint8_t *store(uint8_t *bytes, uint64_t value, size_t length);

#endif
