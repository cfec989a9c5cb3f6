/* Tells AddressSanitizer which slab memory is nobody's. Nothing in other builds. */
#ifndef SLABD_SLAB_ASAN_H
#define SLABD_SLAB_ASAN_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SLAB_ASAN 1
#endif

#ifdef SLAB_ASAN
#include <sanitizer/asan_interface.h>
#endif

static inline void
asan_poison(const void *p, size_t length)
{
#ifdef SLAB_ASAN
	__asan_poison_memory_region(p, length);
#else
	(void)p;
	(void)length;
#endif
}

static inline void
asan_unpoison(const void *p, size_t length)
{
#ifdef SLAB_ASAN
	__asan_unpoison_memory_region(p, length);
#else
	(void)p;
	(void)length;
#endif
}

static inline bool
asan_poisoned(const void *p)
{
#ifdef SLAB_ASAN
	return __asan_address_is_poisoned(p);
#else
	(void)p;
	return false;
#endif
}

#endif
