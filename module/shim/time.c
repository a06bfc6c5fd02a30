// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Time: whole seconds since the region was made, by the clock that counts suspended time and can't be set. The wall
 * clock is asked once, for absolute expiry times.
 */
#include <linux/ktime.h>
#include "shim.h"

/* 0 means no expiry, and 1 long past. */
#define SECONDS_BEFORE_START 2

static time64_t made_s;

void ub_time_begin(struct unbuckle_settings *settings)
{
	made_s = ktime_get_boottime_seconds() - SECONDS_BEFORE_START;
	settings->made_unix_s = ktime_get_real_seconds() - SECONDS_BEFORE_START;
}

u32 ub_now_s(void)
{
	return ktime_get_boottime_seconds() - made_s;
}
