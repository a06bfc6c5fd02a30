//! A simple generator: what is asked need not be hard to foresee.

#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// `seed` is not 0.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The number that the next ones follow from: another one each time.
    pub fn state(&self) -> u64 {
        self.0
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
