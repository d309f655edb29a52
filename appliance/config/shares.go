package config

// Shares are what the parts of an appliance may take of memory.limit, so that
// all of them together, busy at once, stay under it: the process refuses what
// would not fit, and is never killed. About a third is for the runtime's own
// slack and for what has no bound of its own.
type Shares struct {
	// Bodies is for request bodies and the messages made of them, of all clients
	// together. It is counted before a body is read.
	Bodies Size
	// Window is for records of the log that wait in memory; what is over it waits
	// on disk alone.
	Window Size
	// Batch is for the payload of one insert into the store, of which four are
	// under way.
	Batch Size
	// Held is for what waits in memory while the store is down.
	Held Size
	// Queue is for what waits for one channel.
	Queue Size
	// LogMemTable and StoreMemTable are the memtables of the log's and the embedded
	// store's databases. Each has several, and as much again in the tables that it
	// makes of them.
	LogMemTable, StoreMemTable Size
	// Connections is how many clients may be connected.
	Connections int
}

const (
	// mostMemTable is as large as is of use: larger ones make a restart after a
	// kill slower, and nothing faster.
	mostMemTable = 8 * MiB
	// memTablePerBody is how large a memtable must be for a body: a record must
	// fit one transaction, which has 15 % of it.
	memTablePerBody = float64(mostMemTable) / float64(maxBody)
	// memTableShare of memory.limit is what the log's memtable should have, and
	// mostMemTableShare what it may have at most.
	memTableShare, mostMemTableShare = 96, 48
	// memoryPerClient is what a connection costs: its goroutine's stack, the two
	// buffers of net/http, and the request in work.
	memoryPerClient = 40 * KiB
)

// Shares divides memory.limit.
func (c Config) Shares() Shares {
	limit, body := c.Memory.Limit, c.HTTP.MaxBodyBytes
	s := Shares{
		Bodies:        max(min(512*body, limit/8), 5*body),
		Window:        min(limit/10, 64*MiB),
		Batch:         min(limit/64, 4*MiB),
		Held:          min(limit/32, 32*MiB),
		Queue:         min(limit/48, 32*MiB),
		LogMemTable:   min(max(limit/memTableShare, MemTableFor(body)), mostMemTable),
		StoreMemTable: mostMemTable,
		Connections:   int(limit / 2 / memoryPerClient),
	}
	if limit >= GiB {
		s.StoreMemTable = 2 * mostMemTable
	}
	return s
}

// MemTableFor is the smallest memtable of a log that takes bodies of that size.
func MemTableFor(body Size) Size { return Size(float64(body) * memTablePerBody) }

// memoryFor is the smallest memory.limit for bodies of that size.
func memoryFor(body Size) Size {
	return max(minMemoryLimit, (MemTableFor(body)*mostMemTableShare+MiB-1)/MiB*MiB)
}

// leastMemory is the smallest memory.limit with which all parts keep to it.
func (c Config) leastMemory() Size {
	least := memoryFor(c.HTTP.MaxBodyBytes)
	if c.embedded() {
		least = max(least, minMemoryEmbedded)
	}
	return least
}

// embedded reports whether messages are kept in the embedded store.
func (c Config) embedded() bool { return c.Database.URL.Reveal() == "" && c.Database.URLFile == "" }
