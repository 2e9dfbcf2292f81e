#!/usr/bin/env bash
# Print docs/settings.md with the text between its markers replaced by tables of the
# settings in --help of the three programs. `make generate` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

tags=$(sed -n 's/^TAGS *:= //p' Makefile)

table() { # PROGRAM
	go run -trimpath -tags "$tags" "./$1/cmd" --help | awk '
		function flush() {
			if (name != "") printf "| `%s` | %s |\n", name, text
			name = text = ""
		}
		/^Exit status:/ { exit }
		/^Settings/ { inside = 1; next }
		!inside { next }
		/^[A-Z].*:$/ {
			flush()
			sub(/:$/, "")
			printf "\n**%s**\n\n| setting | meaning (default) |\n|---|---|\n", $0
			next
		}
		/^  [A-Z]/ {
			flush()
			name = $1
			sub(/^  [A-Z0-9_]+/, "")
			if ($1 == "or") { name = name "` or `" $2; sub(/^ or [A-Z0-9_]+/, "") }
		}
		{
			gsub(/^ +| +$/, "")
			gsub(/\|/, "\\|")
			# --help breaks lists of networks after a comma, where there is no space.
			text = text (text != "" && text !~ /[0-9],$/ && $0 != "" ? " " : "") $0
		}
		END { flush() }'
}

while IFS= read -r line; do
	case $line in
	'<!-- settings of '*' -->')
		program=${line#<!-- settings of the }
		printf '%s\n' "$line"
		table "${program% -->}"
		printf '\n'
		generated=1
		;;
	'<!-- end of settings -->') generated='' ;;
	esac
	[ -n "${generated:-}" ] || printf '%s\n' "$line"
done <docs/settings.md
