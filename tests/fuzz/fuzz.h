/*
 * What a fuzz target is: one function for one input, called again and again in one process, which
 * must leave nothing behind. libFuzzer calls it (make fuzz), or fuzz_main.c with every file of
 * tests/fuzz/corpus/NAME (make check). What is wrong ends the process: a CHECK or a sanitizer.
 */
#ifndef SLABD_FUZZ_H
#define SLABD_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
