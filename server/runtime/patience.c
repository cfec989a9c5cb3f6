#include "config.h"

#include "patience.h"

#include "limits.h"

struct patience patience = {
	.handshake = LIMIT_NBD_HANDSHAKE,
	.login = LIMIT_ISCSI_LOGIN,
	.partial = LIMIT_PARTIAL_IDLE,
	.output = LIMIT_OUTPUT_STALL,
};
