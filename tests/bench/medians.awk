# Shared by table.awk and chart.awk. Reads lines "PROTOCOL LOAD SERVER RATE"; collect() leaves
# rate_of[PROTOCOL, LOAD, SERVER], the median of the rounds, where a server run in variants
# (nbdkit-t1, nbdkit-t16) stands under its plain name with the best of them.

{
	if (!(($1) in seen_protocol)) {
		seen_protocol[$1] = 1
		protocols[++nprotocols] = $1
	}
	if (!(($2) in seen_load)) {
		seen_load[$2] = 1
		loads[++nloads] = $2
	}
	if (!(($3) in seen_server)) {
		seen_server[$3] = 1
		variants[++nvariants] = $3
	}
	sample[$1, $2, $3, ++samples[$1, $2, $3]] = $4
}

function median(protocol, load, server,    n, i, j, v, list) {
	n = samples[protocol, load, server]
	for (i = 1; i <= n; i++) {
		v = sample[protocol, load, server, i] + 0
		for (j = i; j > 1 && list[j - 1] > v; j--)
			list[j] = list[j - 1]
		list[j] = v
	}
	return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

function collect(    p, l, v, name, rate) {
	for (v = 1; v <= nvariants; v++) {
		name = variants[v]
		sub(/-t[0-9]+$/, "", name)
		if (!(name in seen_name)) {
			seen_name[name] = 1
			names[++nnames] = name
		}
		for (p = 1; p <= nprotocols; p++)
			for (l = 1; l <= nloads; l++) {
				if (!samples[protocols[p], loads[l], variants[v]])
					continue
				rate = median(protocols[p], loads[l], variants[v])
				if (rate > rate_of[protocols[p], loads[l], name])
					rate_of[protocols[p], loads[l], name] = rate
			}
	}
}

# The fastest of the others; its name is left in best_name.
function best_peer(protocol, load,    i, rate) {
	rate = 0
	best_name = ""
	for (i = 1; i <= nnames; i++)
		if (names[i] != "slabd" && rate_of[protocol, load, names[i]] > rate) {
			rate = rate_of[protocol, load, names[i]]
			best_name = names[i]
		}
	return rate
}

function title(protocol) {
	return protocol == "nbd" ? "NBD over TCP" : protocol == "unix" ? "NBD over a unix socket" : \
		protocol == "tls" ? "NBD over TLS 1.3" : \
		protocol == "direct" ? "O_DIRECT, NBD" : protocol == "cached" ? "page cache, NBD" : "iSCSI"
}
