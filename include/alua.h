/*
 * Asymmetric access to logical units, SPC-4 5.15: how good the paths through one of a target's portal
 * groups are. The operator says it, by configuration or slabctl; initiators are told (implicit ALUA).
 */
#ifndef SLABD_ALUA_H
#define SLABD_ALUA_H

#include <stdatomic.h>
#include <stdint.h>

/* SPC-4, ASYMMETRIC ACCESS STATE */
enum alua_state {
	ALUA_OPTIMIZED = 0x0,
	ALUA_NON_OPTIMIZED = 0x1,
	ALUA_STANDBY = 0x2,
	ALUA_UNAVAILABLE = 0x3,
};

/* The words of slabctl and slabd.yaml, by state; NULL ends them. */
extern const char *const alua_words[];

/* Any thread. What nobody has set is active/optimized. */
enum alua_state alua_get(const char *target, uint16_t group);
/* Any thread; with the next command the nexuses of the target's group see it. It is kept, also while there
 * is no such target, until slabd ends. 0 or -ENOMEM. */
int alua_set(const char *target, uint16_t group, enum alua_state state);

/* Forgets what was set. Any thread. */
void alua_clear(void);

/* Another one after each change. */
extern _Atomic uint32_t alua_generation;

#endif
