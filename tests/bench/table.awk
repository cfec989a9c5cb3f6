# Medians and ratios as a table.

END {
	collect()
	for (p = 1; p <= nprotocols; p++) {
		printf "\n%-24s", title(protocols[p])
		n = 0
		for (i = 1; i <= nnames; i++)
			if (rate_of[protocols[p], loads[1], names[i]]) {
				shown[++n] = names[i]
				printf "%12s", names[i]
			}
		printf "   slabd / best peer\n"
		for (l = 1; l <= nloads; l++) {
			printf "  %-22s", loads[l]
			for (i = 1; i <= n; i++) {
				rate = rate_of[protocols[p], loads[l], shown[i]]
				printf "%12s", rate ? sprintf("%.0f", rate) : "-"
			}
			peer = best_peer(protocols[p], loads[l])
			mine = rate_of[protocols[p], loads[l], "slabd"]
			if (peer && mine)
				printf "   %.2f x %s", mine / peer, best_name
			printf "\n"
		}
	}
}
