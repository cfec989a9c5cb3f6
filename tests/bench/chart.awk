# The 4 KiB loads as an SVG bar chart: slabd and its peers, the ratio to the best of them on slabd's bar.
# Readable on light and dark pages: colours come from a style sheet that follows the reader's.

function k(rate) {
	return rate >= 10000 ? sprintf("%.0fk", rate / 1000) : sprintf("%.1fk", rate / 1000)
}

function text(x, y, class, words) {
	printf "<text x=\"%d\" y=\"%d\" class=\"%s\">%s</text>\n", x, y, class, words
}

function words_of(load,    w) {
	w = load
	sub(/^4k-/, "4 KiB ", w)
	sub(/-qd/, ", depth ", w)
	return w
}

END {
	collect()
	left = 150
	wide = 480
	row = 18
	height = 40
	most = 1
	for (p = 1; p <= nprotocols; p++)
		for (l = 1; l <= nloads; l++) {
			if (loads[l] !~ /^4k/)
				continue
			for (i = 1; i <= nnames; i++) {
				rate = rate_of[protocols[p], loads[l], names[i]]
				if (!rate)
					continue
				height += row
				if (rate > most)
					most = rate
			}
			height += 24
		}
	height += 26 * nprotocols
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 %d\" role=\"img\"", height
	printf " aria-label=\"Requests per second of slabd and its peers\">\n"
	print "<style>"
	print "text { font: 13px system-ui, sans-serif; fill: #1f2328 }"
	print ".head { font-weight: 600; font-size: 15px } .small { fill: #59636e; font-size: 12px }"
	print ".name { text-anchor: end } .mine { fill: #0969da } .peer { fill: #9aa4af }"
	print ".on { fill: #ffffff; font-weight: 600 }"
	print "@media (prefers-color-scheme: dark) {"
	print "text { fill: #e6edf3 } .small { fill: #9198a1 } .mine { fill: #4493f8 } .peer { fill: #59636e }"
	print ".on { fill: #0d1117 } }"
	print "</style>"
	text(8, 18, "small", "requests per second, client and server on one core, medians of " rounds " rounds")
	y = 24
	for (p = 1; p <= nprotocols; p++) {
		y += 26
		text(8, y - 4, "head", title(protocols[p]))
		for (l = 1; l <= nloads; l++) {
			if (loads[l] !~ /^4k/)
				continue
			y += 20
			text(8, y - 5, "small", words_of(loads[l]))
			for (i = 1; i <= nnames; i++) {
				rate = rate_of[protocols[p], loads[l], names[i]]
				if (!rate)
					continue
				bar = int(rate / most * wide + 0.5)
				printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"2\" class=\"%s\"/>\n", left,
					y, bar, row - 4, names[i] == "slabd" ? "mine" : "peer"
				text(left - 8, y + 11, "name", names[i])
				text(left + bar + 6, y + 11, "value", k(rate))
				peer = best_peer(protocols[p], loads[l])
				if (names[i] == "slabd" && peer) {
					ratio = sprintf("%.1f × %s", rate / peer, best_name)
					if (bar > 120)
						text(left + 8, y + 11, "on", ratio)
					else
						text(left + bar + 56, y + 11, "small", ratio)
				}
				y += row
			}
			y += 4
		}
	}
	print "</svg>"
}
