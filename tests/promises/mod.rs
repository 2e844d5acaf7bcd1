mod exit_codes;
mod killed;
mod layering;
mod night;
mod parity;
mod readme;
mod real_data;
mod telling;
