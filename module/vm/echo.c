// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The floor under what a get costs: the module with nothing in its heart. The same shim, with its hook, its checks and
 * its way of sending, and in place of the Rust core this: every datagram is answered by as many bytes as its third word
 * says. For measuring only; never shipped.
 */
#include <linux/kernel.h>
#include <linux/minmax.h>
#include "../shim/shim.h"

#define PAYLOAD_BYTES_MAX 1392

static u8 payload[PAYLOAD_BYTES_MAX];

u32 unbuckle_core_abi(void)
{
	return UNBUCKLE_ABI;
}

size_t unbuckle_core_bytes(const struct unbuckle_settings *settings)
{
	return PAGE_SIZE;
}

struct unbuckle_core *unbuckle_core_make(const struct unbuckle_settings *settings, void *region, void *block,
					 size_t block_bytes)
{
	return block;
}

void unbuckle_session_begin(struct unbuckle_session *session)
{
}

void unbuckle_session_end(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session)
{
}

void unbuckle_turn(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session,
		   struct unbuckle_turn *turn)
{
	turn->consumed = turn->input_len;
	turn->next = UNBUCKLE_CLOSE;
}

size_t unbuckle_unsend(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session, size_t count)
{
	return 0;
}

/* `get counted 1017`: the last word is how long the reply is to be, its frame not included. */
static unsigned int length_asked(const u8 *datagram, size_t len)
{
	unsigned int number = 0, place = 1;

	while (len > UNBUCKLE_FRAME_BYTES && (datagram[len - 1] == '\r' || datagram[len - 1] == '\n'))
		len--;
	for (; len > UNBUCKLE_FRAME_BYTES && datagram[len - 1] >= '0' && datagram[len - 1] <= '9'; place *= 10)
		number += place * (datagram[--len] - '0');
	return min_t(unsigned int, number, PAYLOAD_BYTES_MAX);
}

u32 unbuckle_datagram(struct unbuckle_core *core, u32 engine, const u8 *datagram, size_t len, const u8 *source,
		      u32 now_s, void *context)
{
	if (len <= UNBUCKLE_FRAME_BYTES)
		return UNBUCKLE_MALFORMED;
	unbuckle_shim_reply(context, datagram, payload, length_asked(datagram, len));
	return UNBUCKLE_SERVED;
}

bool unbuckle_maintain(struct unbuckle_core *core, u32 engine, u32 now_s)
{
	return false;
}

size_t unbuckle_report(struct unbuckle_core *core, u32 now_s, u8 *out, size_t room)
{
	return 0;
}
