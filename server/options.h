/* The command line (design section 7). */
#ifndef SLABD_OPTIONS_H
#define SLABD_OPTIONS_H

#include <stdbool.h>

#include "config_load.h"

enum options_action { OPTIONS_SERVE, OPTIONS_CHECK, OPTIONS_PRINT, OPTIONS_VERSION, OPTIONS_HELP };

/* Reads the file it names, then adds the rest to the configuration; mistakes become its problems.
 */
enum options_action options_parse(int argc, char **argv, struct config *config);

void options_help(void);

#endif
