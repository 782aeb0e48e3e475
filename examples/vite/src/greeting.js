export const greeting = "Edit src/greeting.js and watch this line change";
