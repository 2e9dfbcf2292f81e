package settings

import (
	"os"
	"slices"
	"strings"
)

// Mistyped is an environment variable that is not a setting, and the setting that was probably
// meant.
type Mistyped struct{ Variable, Meant string }

func (m Mistyped) String() string {
	return m.Variable + " is not a setting; did you mean " + m.Meant + "?"
}

// prefix is not part of our names, but of those that people expect.
const prefix = "FLEETCONF_"

// FindMistyped returns the environment variables of this process that look like mistyped settings
// of a program.
func FindMistyped(into Validator) []Mistyped { return mistyped(os.Environ(), Fields(into)) }

// mistyped returns the variables of environ whose names look like one of these settings, sorted.
// A variable without a value counts as unset.
func mistyped(environ []string, fields []Field) (found []Mistyped) {
	set, services := map[string]bool{}, []string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value != "" {
			set[name] = true
		}
		if service, ok := strings.CutSuffix(name, "_SERVICE_HOST"); ok {
			services = append(services, service+"_PORT")
		}
	}
	known := map[string]bool{}
	for _, f := range fields {
		known[f.Name], known[f.alias] = true, true
		if f.Secret {
			known[f.Name+"_FILE"] = true
		}
	}
	for name := range set {
		upper := strings.ToUpper(name)
		// Kubernetes sets CONTROLLER_PORT and others for a service named controller.
		ofService := slices.ContainsFunc(services, func(port string) bool {
			return name == port || strings.HasPrefix(name, port+"_")
		})
		if known[name] || ofService || len(name) < shortName && name != upper {
			continue
		}
		if meant := nearest(strings.TrimPrefix(upper, prefix), fields, set); meant != "" {
			found = append(found, Mistyped{name, meant})
		}
	}
	slices.SortFunc(found, func(a, b Mistyped) int { return strings.Compare(a.Variable, b.Variable) })
	return found
}

// nearest returns the setting that name probably means, "" for none. set are the variables with a
// value.
func nearest(name string, fields []Field, set map[string]bool) (meant string) {
	least := maxMistakes + 1
	consider := func(candidate, setting string) {
		if n := mistakes(name, candidate); n < least {
			least, meant = n, setting
		}
	}
	for _, f := range fields {
		consider(f.Name, f.Name)
		switch {
		case f.Secret:
			consider(f.Name+"_FILE", f.Name+"_FILE")
		case name == f.Name+"_FILE": // of secrets alone
			consider(name, f.Name)
		}
		// If our name is set too, the other is meant for another program.
		if !set[f.Name] && !set[f.Name+"_FILE"] {
			for _, other := range f.mistaken {
				consider(other, f.Name)
			}
		}
	}
	return meant
}

const (
	maxMistakes = 2
	shortName   = 6 // below this length many variables are similar
	longWord    = 8 // from this length a word may have two mistakes
)

// mistakes returns the number of mistakes in name if candidate was meant, and more than
// maxMistakes if something else was meant: WORKER_UID is not a mistyped WORKER_URL.
func mistakes(name, candidate string) int {
	const other = maxMistakes + 1
	total := distance(name, candidate)
	words, wanted := strings.Split(name, "_"), strings.Split(candidate, "_")
	switch {
	case total == 0, total == 1 && len(candidate) >= shortName:
		return total
	case total == 1 && sorted(name) == sorted(candidate): // PROT
		return total
	case total > maxMistakes, len(candidate) < shortName, len(words) != len(wanted):
		return other
	}
	for i, word := range words {
		if len(wanted[i]) < longWord && distance(word, wanted[i]) > 1 {
			return other
		}
	}
	return total
}

func sorted(word string) string {
	letters := []byte(word)
	slices.Sort(letters)
	return string(letters)
}

// distance returns the optimal string alignment distance of a and b: insertions, deletions,
// changes and swaps of neighbors.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
