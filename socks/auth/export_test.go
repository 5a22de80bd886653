package auth

// CountHashes makes c count the costly comparisons that it makes from now on.
func CountHashes(c *Credentials) (count func() int) {
	n := 0
	counting := func(s secret) secret {
		if s.cost() == 0 {
			return s
		}
		return countedSecret{s, &n}
	}
	for user, s := range c.users {
		c.users[user] = counting(s)
	}
	c.decoy = counting(c.decoy)
	return func() int { return n }
}

type countedSecret struct {
	secret
	n *int
}

func (s countedSecret) matches(pass string) bool {
	*s.n++
	return s.secret.matches(pass)
}

// HoldHashes has the costly comparisons of c wait until resume is called.
func HoldHashes(c *Credentials) (resume func()) {
	for range cap(c.cpu) {
		c.cpu <- struct{}{}
	}
	return func() {
		for range cap(c.cpu) {
			<-c.cpu
		}
	}
}

// Braked returns how many entries c keeps of guessing, and the length of their
// longest user name.
func Braked(c *Credentials) (n, longest int) {
	for key := range c.brake.users {
		longest = max(longest, len(key.user))
	}
	return max(len(c.brake.users), len(c.brake.sources)), longest
}
