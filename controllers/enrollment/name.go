package enrollment

import "strings"

const maxLabel = 63

// label is the first label of a hostname as a DNS label (RFC 1123): lower case, anything else a hyphen.
func label(hostname string) string {
	host, _, _ := strings.Cut(hostname, ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, host)
	if name = strings.Trim(name[:min(len(name), maxLabel)], "-"); name == "" {
		return "endpoint"
	}
	return name
}

// names are what an Endpoint may be called, best first: the hostname, or that with a piece of the key's hash where it is taken. They depend
// on nothing else, so a repeated enrolment looks for its Endpoint where the first one put it.
func names(hostname, keyHash string) []string {
	name := label(hostname)
	out := []string{name}
	for _, digits := range []int{5, 10} {
		out = append(out, strings.TrimRight(name[:min(len(name), maxLabel-1-digits)], "-")+"-"+keyHash[:digits])
	}
	return out
}
