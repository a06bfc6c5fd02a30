// SPDX-License-Identifier: MIT OR GPL-2.0
/* Where to listen: all addresses, or one. */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/inet.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include "shim.h"

int ub_address_read(const char *text, struct ub_address *to)
{
	__be32 ipv4;

	*to = (struct ub_address){};
	if (!*text)
		return 0;
	if (in4_pton(text, -1, (u8 *)&ipv4, -1, NULL)) {
		to->family = AF_INET;
		ipv6_addr_set_v4mapped(ipv4, &to->address);
		return 0;
	}
	if (IS_ENABLED(CONFIG_IPV6) && in6_pton(text, -1, to->address.s6_addr, -1, NULL)) {
		to->family = AF_INET6;
		return 0;
	}
	pr_err("address=%s is not possible: expected an IPv4 or IPv6 address, or nothing for all\n", text);
	return -EINVAL;
}

bool ub_address_has(const struct ub_address *own, int family)
{
	return (!own->family || own->family == family) && (family == AF_INET || IS_ENABLED(CONFIG_IPV6));
}

int ub_address_bind(struct socket *socket, const struct ub_address *own, int family, unsigned int port)
{
	struct sockaddr_in ipv4 = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = own->family ? own->address.s6_addr32[3] : htonl(INADDR_ANY),
	};
	struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = own->address };

	if (family == AF_INET)
		return kernel_bind(socket, (struct sockaddr *)&ipv4, sizeof(ipv4));
	socket->sk->sk_ipv6only = 1;
	return kernel_bind(socket, (struct sockaddr *)&ipv6, sizeof(ipv6));
}

const char *ub_address_error(int error)
{
	switch (error) {
	case -EADDRINUSE:
		return "it is in use";
	case -EADDRNOTAVAIL:
		return "this host has no such address";
	default:
		return "see the error that insmod reports";
	}
}
